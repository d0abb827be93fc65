"""An address that the Hub would not take is refused before anything is asked or made, and so is one that leads away."""

import os
import subprocess
import sys

import pytest
from hub.server import Hub

from fer_scale import hub, hub_rights, hub_tree
from fer_scale.hub import HubError

NAMES = ["a" * 97, "a--b", "a..b", ".a", "-a", "a.", "a-", "a.git", "gesichter-für-alle"]
REVISIONS = ["../../x", "/etc/x", "a/../b", "a//b", "a/", ".hidden", "v1..v2", "~root", "a\\b", "a\0b", "v1:x", "-v"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_the_hub_does_not_take_is_refused_before_days_are_spent(hub_server: Hub, name: str) -> None:
    for address in (f"hf://lab/{name}", f"hf://{name}/faces", f"hf://datasets/lab/{name}"):
        with pytest.raises(HubError, match="not a name that the Hub allows: at most 96 letters"):
            hub_rights.may_write(address)
    assert not hub_server.requests


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_revision_that_is_no_plain_name_is_never_a_path_in_the_cache(hub_server: Hub, revision: str) -> None:
    with pytest.raises(HubError, match="is no revision: letters, digits"):
        hub.pull(f"hf://lab/faces@{revision}")
    assert not hub_server.requests


def test_data_without_an_organisation_are_no_model_of_the_organisation_datasets() -> None:
    for address in ("hf://datasets/faces", "hf://datasets/faces@v1", "hf://datasets/datasets/faces"):
        with pytest.raises(HubError, match="an address of data on the Hub is hf://datasets/ORG/NAME"):
            hub_tree.parse(address)


def test_an_empty_endpoint_is_none() -> None:
    asked = "import fer_scale; from huggingface_hub import constants; from shards import access; " + (
        "print(access.endpoint(), constants.ENDPOINT)"
    )
    settings = os.environ | {"HF_ENDPOINT": ""}
    said = subprocess.run([sys.executable, "-c", asked], env=settings, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["https://huggingface.co"] * 2


def test_what_the_hub_takes_is_taken() -> None:
    for name in ("a", "_a_", "a" * 96, "a-b.c_d", "4x4"):
        for revision in ("", "@v1", "@v1.0-rc+1", "@refs/pr/1", "@feature/x", "@" + "0" * 40):
            address = f"hf://lab/{name}{revision}"
            assert str(hub_tree.parse(address)) == address
    assert str(hub_tree.parse("hf://datasets/lab/faces@v1")) == "hf://datasets/lab/faces@v1"

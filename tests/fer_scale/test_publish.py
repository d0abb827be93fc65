"""What publish promises: the encoder exactly, an honest card, no default licence, and no faces by accident."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub.looking import contents, held
from hub.server import Hub
from hub.trained import RECIPE, save_checkpoint, weights
from safetensors.torch import load_file

from fer_scale import artifact, checkpoint, encoder, hub
from fer_scale.__main__ import main
from fer_scale.publish import Pruned, PublishError, publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload


# ---- what is cut


def test_the_encoder_of_the_newest_checkpoint_is_cut_exactly_and_nothing_else(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    assert publish(pretrained, str(out), licence="mit") == str(out)
    assert set(contents(out)) == {"config.json", "model.safetensors", "README.md", "curves.png", "manifest.json"}
    cut, expected = load_file(out / "model.safetensors"), weights(20)
    assert cut.keys() == expected.keys()
    assert all(torch.equal(cut[name], expected[name]) for name in expected)
    _, config = encoder.load(out)
    assert config["fer_scale"]["step"] == 20 and config["fer_scale"]["views"] == 320
    artifact.check(out)


@pytest.mark.parametrize("how", ["step", "folder", "moved"])
def test_any_checkpoint_can_be_published(pretrained: Path, tmp_path: Path, how: str) -> None:
    out, place = tmp_path / "encoder", checkpoint.folder_of(pretrained, 10)
    if how == "step":
        publish(pretrained, str(out), licence="mit", step=10)
    elif how == "folder":
        publish(place, str(out), licence="mit")
    else:
        shutil.copytree(place, tmp_path / "elsewhere")
        publish(tmp_path / "elsewhere", str(out), licence="mit", data=["faces that we drew, cc0-1.0"])
        card = (out / "README.md").read_text()
        assert "As their publisher states them:\n\n- faces that we drew, cc0-1.0\n" in card
    expected = weights(10)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(out / "model.safetensors").items())
    if how != "moved":
        assert "| last loss | 0.1000 |" in (out / "README.md").read_text(), "the loss at step 10, not the newest"


def test_a_card_that_was_edited_in_a_folder_stays_with_the_same_model(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "encoder"
    publish(pretrained, str(out), licence="mit")
    edited = (out / "README.md").read_text() + "\n## Better words\n"
    (out / "README.md").write_text(edited)
    publish(pretrained, str(out), licence="mit")
    assert (out / "README.md").read_text() == edited and "README.md stays as it is" in capsys.readouterr().err
    publish(pretrained, str(out), licence="mit", step=10)
    assert "Better words" not in (out / "README.md").read_text()


def test_the_same_checkpoint_gives_the_same_bytes(pretrained: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        publish(pretrained, str(tmp_path / name), licence="mit")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_published_folder_goes_on_to_the_hub_byte_for_byte(pretrained: Path, tmp_path: Path, hub_server: Hub) -> None:
    publish(pretrained, str(tmp_path / "encoder"), licence="mit")
    address = publish(tmp_path / "encoder", "hf://lab/faces")
    pulled = hub.pull("hf://lab/faces", tmp_path / "pulled")
    assert pulled.address == address
    there, here = contents(pulled.folder), contents(tmp_path / "encoder")
    card = there.pop("README.md").decode()
    assert here.pop("README.md").decode().count("ORG/NAME") > 3
    assert there == here
    assert "ORG/NAME" not in card and 'timm.create_model("hf-hub:lab/faces", pretrained=True)' in card
    assert "Write to the discussions of this repository, https://huggingface.co/lab/faces/discussions," in card


def test_a_run_goes_to_the_hub_in_one_commit_and_under_its_name(
    pretrained: Path, tmp_path: Path, hub_server: Hub
) -> None:
    address = publish(pretrained, "hf://lab/faces@v1", licence="mit", private=True)
    repo = hub_server.store.repos["lab/faces"]
    assert address == f"hf://lab/faces@{repo.tags['v1']}" and repo.private
    assert len(repo.commits) == 2
    card = (hub.pull(address).folder / "README.md").read_text()
    assert 'timm.create_model("hf-hub:lab/faces", pretrained=True)' in card
    assert publish(pretrained, "hf://lab/faces@v1", licence="mit") == address


def test_an_expression_model_is_published_with_its_evaluation(finetuned: Path, tmp_path: Path) -> None:
    for source in (finetuned, finetuned / "model"):
        out = tmp_path / f"of-{source.name}"
        publish(source, str(out), licence="cc-by-nc-4.0")
        assert set(contents(out)) == {
            "config.json",
            "model.safetensors",
            "README.md",
            "confusion_matrix.png",
            "manifest.json",
        }
        card = (out / "README.md").read_text()
        for line in (
            "pipeline_tag: image-classification",
            "Measured on 700 images of ferplus, list `test` of the split efefefefefef; "
            "labels by the protocol `argmax`; left out: 3 (unknown expression).",
            "**Beware:** it may have seen these faces.",
            "| accuracy | 61.2 % | 60.0 to 63.0 |",
            "| neutral | 500 | 70.0 % | 65.8 to 73.9 | 60.0 % |",
            "| fear | 0 | - | - | - |",
            "The probabilities are of `neutral`, `happiness`, `fear`, in this order",
            "it is 55.0 % sure on average, and right in 61.2 % of the images",
            "were calibrated (one temperature) on held-out images; the temperature is part of the weights",
            "Its encoder was trained on other images, which are not recorded here: all that is known of it is its "
            "folder's name, `encoder`.",
            "| network | ViT 64x2x2 (width, depth, heads), patches of 8 px, ",
            "`fer-scale predict hf://ORG/NAME face.jpg --faces whole`",
            "Training started from `encoder`.",
            "(0.10, 0.10, 0.90, 0.98)",
            "![True against predicted expressions](confusion_matrix.png)",
        ):
            assert line in card
        assert b"/secret/place" not in b"".join(contents(out).values())
    assert json.loads((out / "config.json").read_text())["label_names"] == ["neutral", "happiness", "fear"]


def test_a_base_model_on_the_hub_stands_in_the_front_matter(finetuned: Path, tmp_path: Path) -> None:
    place = finetuned / "model" / "config.json"
    config = json.loads(place.read_text())
    config["fer_scale"]["base_model"] = "hf://lab/faces@" + "0" * 40
    place.write_text(json.dumps(config))
    artifact.seal(place.parent)
    publish(finetuned, str(tmp_path / "out"), licence="mit")
    card = (tmp_path / "out" / "README.md").read_text()
    found = yaml.safe_load(card.split("---\n")[1])
    assert found["base_model"] == "lab/faces" and found["base_model_relation"] == "finetune"
    assert f"Training started from `hf://lab/faces@{'0' * 40}`" in card


# ---- the card


def test_the_card_says_what_it_was_made_of_and_no_path_of_this_machine(pretrained: Path, tmp_path: Path) -> None:
    publish(pretrained, str(tmp_path / "out"), licence="cc-by-nc-4.0", title="Tiny faces")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith(
        "---\nlicense: cc-by-nc-4.0\nlibrary_name: timm\npipeline_tag: image-feature-extraction\ntags:\n- timm\n"
    )
    for line in (
        "# Tiny faces",
        "| drawn | 1,200 | 30 | apache-2.0 | packed from a folder of pictures | abababababab |",
        "| found | 50 | 0 | unknown | packed from tars | cdcdcdcdcdcd |",
        "| views | 320 |",
        "| devices | 2 x cpu, on 1 host |",
        "| hours in training steps | 0.556, 0.111 of them for steps that a failure made it compute twice |",
        "| device-hours in training steps | 1.11 |",
        f"| fingerprint of drawn | {'ab' * 32} |",
        f"| sha256 of the recipe | {hashlib.sha256(RECIPE.encode()).hexdigest()} |",
        "| sha256 of the code (first 8) | c0de |",
        "Not a lie detector",
        "Not for use at the workplace or in schools",
        "Write to whoever gave you this folder,",
        "mask_ratio = 0.75",
        "| network | ViT 64x2x2 (width, depth, heads), patches of 8 px, ",
        "`fer-scale finetune RECIPE model.start_from=hf://ORG/NAME`",
        "`fer-scale pull hf://ORG/NAME FOLDER` checks every file",
        "## Evaluation\n\nNot measured on any task by itself.",
        '.convert("RGB")',
        "It takes square face crops only",
        "Article 5(1)(f)",
        "![Loss, learning rate and speed over the steps](curves.png)",
        "No image is part of this repository.",
    ):
        assert line in card
    assert "secret" not in card + (tmp_path / "out" / "config.json").read_text(), "no path, and no name of a host"


def test_the_card_of_a_mixture_names_every_set_with_its_weight(pretrained: Path, tmp_path: Path) -> None:
    rows = json.loads((pretrained / "data.json").read_text())
    for row, weight in zip(rows, (0.7, 0.3), strict=True):
        row["weight"] = weight
    (pretrained / "data.json").write_text(json.dumps(rows))
    publish(pretrained, str(tmp_path / "out"), licence="mit")
    card = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "| set | of each batch | images | left out | licence of the images | obtained | fingerprint |",
        "| drawn | 70 % | 1,200 | 30 | apache-2.0 | packed from a folder of pictures | abababababab |",
        "| found | 30 % | 50 | 0 | unknown | packed from tars | cdcdcdcdcdcd |",
    ):
        assert line in card


def test_a_licence_unknown_to_the_hub_is_other_with_its_name(pretrained: Path, tmp_path: Path) -> None:
    publish(pretrained, str(tmp_path / "out"), licence="Non-commercial research only")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other\nlicense_name: non-commercial-research-only\nlicense_link: LICENSE\n" in card
    assert "    Non-commercial research only\n" in (tmp_path / "out" / "LICENSE").read_text()
    assert "Non-commercial research only. The licences of the data" in card


def test_faces_of_the_training_data_leave_only_when_asked_for(pretrained: Path, tmp_path: Path) -> None:
    publish(pretrained, str(tmp_path / "quiet"), licence="mit")
    publish(pretrained, str(tmp_path / "shown"), licence="mit", pictures=True)
    assert not (tmp_path / "quiet" / "reconstructions.png").exists()
    shown = (tmp_path / "shown" / "reconstructions.png").read_bytes()
    assert shown == (pretrained / "reconstructions.png").read_bytes()
    assert "No image is part of this repository, but for the pictures" in (tmp_path / "shown" / "README.md").read_text()


def test_the_card_names_what_the_encoder_was_trained_on_with_its_terms(
    pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    rows = json.loads((pretrained / "data.json").read_text())
    (pretrained / "data.json").write_text(json.dumps([rows[0] | {"name": "AffectNet-2018"}, rows[1]]))
    publish(pretrained, str(tmp_path / "base"), licence="mit")
    config = json.loads((finetuned / "model" / "config.json").read_text())
    config["fer_scale"]["base_model"] = str(tmp_path / "base")
    (finetuned / "model" / "config.json").write_text(json.dumps(config))
    artifact.seal(finetuned / "model")
    publish(finetuned, str(tmp_path / "out"), licence="mit")
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "Its encoder was trained on AffectNet-2018 (licence of the images: apache-2.0), found (licence of the images: "
        "unknown)." in card
    )
    assert "AffectNet is given to leaders of academic groups" in card
    encoder.load(tmp_path / "out")


def test_the_card_names_what_the_weights_that_it_began_with_were_trained_on_as_it_was_when_they_were_read(
    pretrained: Path, tmp_path: Path
) -> None:
    data = [{"name": "MS1M", "licence": "none stated"}]
    (pretrained / "elsewhere").mkdir()  # by now another encoder, or none
    begun = {"address": str(pretrained / "elsewhere"), "licence": "mit", "data": data, "adapted": ""}
    save_checkpoint(pretrained, 30, start=begun)
    publish(pretrained, str(tmp_path / "out"), licence="mit")
    said = "The weights that it started from were trained on MS1M (licence of the images: none stated)."
    assert said in (tmp_path / "out" / "README.md").read_text()
    assert encoder.config_of(tmp_path / "out")["fer_scale"]["base_data"] == data


def test_foreign_keys_and_a_wrong_width_of_a_config_do_not_travel(finetuned: Path, tmp_path: Path) -> None:
    place = finetuned / "model" / "config.json"
    config = json.loads(place.read_text()) | {"auto_map": {"AutoModel": "evil.py"}, "num_features": 7}
    config["pretrained_cfg"] |= {"url": "http://evil", "file": "/secret", "custom_load": True}
    config["fer_scale"]["base_model"] = "."
    place.write_text(json.dumps(config))
    artifact.seal(place.parent)
    publish(finetuned, str(tmp_path / "out"), licence="CC BY-NC 4.0")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not {"auto_map", "url", "file"} & {*said, *said["pretrained_cfg"]}
    assert said["num_features"] == 64 and said["pretrained_cfg"]["license"] == "cc-by-nc-4.0"
    assert said["fer_scale"]["base_model"] == "a folder" and not said["pretrained_cfg"]["custom_load"]


# ---- what is refused


@pytest.mark.parametrize("licence", ["unknown", "None", "other", "n/a", "TBD", "?", "unknown licence"])
def test_no_licence_by_another_name_is_refused(pretrained: Path, tmp_path: Path, licence: str) -> None:
    with pytest.raises(PublishError, match=r"is no licence; give the name of one, as cc-by-nc-4\.0"):
        publish(pretrained, str(tmp_path / "out"), licence=licence)


def test_a_config_that_does_not_say_its_size_is_one_message(finetuned: Path, tmp_path: Path) -> None:
    place = finetuned / "model" / "config.json"
    config = json.loads(place.read_text())
    del config["pretrained_cfg"]["input_size"]
    place.write_text(json.dumps(config))
    artifact.seal(place.parent)
    with pytest.raises(PublishError, match=r"its pretrained_cfg does not say input_size; only models that"):
        publish(finetuned, str(tmp_path / "out"), licence="mit")


def test_parts_that_are_not_there_are_named(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="--parts: a name is missing: write encoder, or encoder,decoder"):
        publish(pretrained, str(tmp_path / "out"), licence="mit", parts=["encoder", ""])


def test_without_a_licence_nothing_is_published(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PublishError,
        match=r"no licence given, and there is no default\. Add --licence.*drawn: apache-2\.0; found: unknown",
    ):
        publish(pretrained, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_recipes_card_gives_licence_and_title(pretrained: Path, tmp_path: Path) -> None:
    (pretrained / "recipe.toml").write_text(RECIPE + 'license = "mit"\ntitle = "From the recipe"\n')
    save_checkpoint(pretrained, 30)
    publish(pretrained, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "# From the recipe" in card


def test_so_does_that_of_fine_tuning(finetuned: Path, tmp_path: Path) -> None:
    recipe = finetuned / "recipe.toml"
    given = (
        "[card]\nlicense = 'cc-by-nc-4.0'\ntitle = 'Seven faces'\ncontact = 'us@example.org'\ndata = ['drawn by us']\n"
    )
    recipe.write_text(recipe.read_text() + given)
    publish(finetuned, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(said in card for said in ("license: cc-by-nc-4.0", "# Seven faces", "us@example.org", "drawn by us"))


def test_no_folder_has_its_reader_sign_by_naming_a_key_but_who_forgot_to_sign_is_told(
    pretrained: Path, keys: tuple[Path, Path], hub_server: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    (pretrained / "recipe.toml").write_text(f'{RECIPE}license = "mit"\n[publish]\nsign = "{keys[0]}"\n')
    save_checkpoint(pretrained, 30)
    publish(pretrained, "hf://lab/faces")
    assert "publish.sign), and this is not signed: add --sign KEY" in "".join(capfd.readouterr())
    assert "model.sig" not in held(hub_server)


def _nan(pretrained: Path) -> Path:
    save_checkpoint(pretrained, 30, broken=True)
    return pretrained


def _damaged(pretrained: Path) -> Path:
    file = next(checkpoint.folder_of(pretrained, 20).glob("state-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return pretrained


def _empty(pretrained: Path) -> Path:
    shutil.rmtree(pretrained / "checkpoints")
    return pretrained


def _of_several_lines(pretrained: Path) -> Path:
    file = pretrained / "recipe.toml"
    whole = file.read_text()
    file.write_text(f'{whole}\n[more]\ncontact = "two\nlines"\n')
    save_checkpoint(pretrained, 30)
    file.write_text(whole)
    return pretrained


@pytest.mark.parametrize(
    ("prepare", "more", "words"),
    [
        (_nan, {}, r"step_00000030: NaN or infinite values in norm\.bias; publish an earlier step"),
        (_damaged, {}, "damaged"),
        (_of_several_lines, {}, "step_00000030: the recipe in its progress.json cannot be read"),
        (_empty, {}, "no checkpoint, and no model; give a run"),
        (lambda run: run / "nowhere", {}, "no such folder; give a run"),
        (lambda run: run, {"step": 15}, "no checkpoint of step 15; there are 10, 20"),
        (lambda run: checkpoint.folder_of(run, 10), {"step": 20}, "is one checkpoint; give the run instead"),
    ],
)
def test_what_cannot_be_published_says_why_and_leaves_nothing(
    pretrained: Path, tmp_path: Path, prepare: Callable[[Path], Path], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        publish(prepare(pretrained), str(tmp_path / "out"), licence="mit", **more)
    assert not (tmp_path / "out").exists()


def test_a_published_folder_takes_no_new_facts_and_no_damage(pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(pretrained, str(out), licence="mit")
    with pytest.raises(PublishError, match="was published already and goes on byte for byte"):
        publish(out, str(tmp_path / "more"), licence="apache-2.0")
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors has changed since it was published"):
        publish(out, str(tmp_path / "more"))


def test_publishing_never_needs_deepspeed(pretrained: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['deepspeed'] = None\n"
        "from pathlib import Path; from fer_scale.publish import publish\n"
        f"publish(Path({str(pretrained)!r}), {str(tmp_path / 'out')!r}, licence='mit')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out" / "manifest.json").is_file()


# ---- while the run goes on, and later


def test_a_step_has_the_same_bytes_at_its_time_and_later(pretrained: Path, tmp_path: Path) -> None:
    whole = {file: file.read_text().splitlines(keepends=True) for file in pretrained.glob("*.jsonl")}
    newer, aside = checkpoint.folder_of(pretrained, 20), tmp_path / "not yet"
    newer.rename(aside)
    (pretrained / "metrics.jsonl").write_text("".join(whole[pretrained / "metrics.jsonl"][:2]))
    (pretrained / "events.jsonl").write_text("".join(whole[pretrained / "events.jsonl"][:1]))
    publish(pretrained, str(tmp_path / "then"), licence="mit")
    for file, lines in whole.items():
        file.write_text("".join(lines))
    aside.rename(newer)
    publish(pretrained, str(tmp_path / "later"), licence="mit", step=10)
    assert contents(tmp_path / "then") == contents(tmp_path / "later")
    assert "| hours in training steps | 0.222 |" in (tmp_path / "later" / "README.md").read_text()


def test_a_checkpoint_that_is_deleted_meanwhile_is_an_error_of_its_own_or_a_newer_one_is_taken(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = artifact.sha256

    def then_deleted(file: Path) -> str:  # by the run, as it saves once more
        if file.parent.name == "step_00000020":
            shutil.copytree(file.parent, copy := tmp_path / "copy" / file.parent.name)
            (copy / "manifest.json").unlink()
            save_checkpoint(pretrained, 30)
            checkpoint.prune(pretrained, 1)
        return read(file)

    monkeypatch.setattr(artifact, "sha256", then_deleted)
    publish(pretrained, str(tmp_path / "newest"), licence="mit")
    assert json.loads((tmp_path / "newest" / "config.json").read_text())["fer_scale"]["step"] == 30

    shutil.rmtree(tmp_path / "copy")
    save_checkpoint(pretrained, 20)
    with pytest.raises(Pruned, match=r"step_00000020: was deleted while it was read; publish a newer step"):
        publish(pretrained, str(tmp_path / "out"), licence="mit", step=20)
    assert not (tmp_path / "out").exists()


def test_reconstructions_of_another_step_do_not_stand_in_the_card(pretrained: Path, tmp_path: Path) -> None:
    save_checkpoint(pretrained, 30)  # as a run that stops, which draws none
    for step in (10, 30):
        publish(pretrained, str(tmp_path / f"{step}"), licence="mit", step=step, pictures=True)
        assert not (tmp_path / f"{step}" / "reconstructions.png").exists()


def test_without_sources_of_the_data_nothing_is_published_and_the_option_and_key_are_named(
    pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    for run in (pretrained, finetuned):
        (run / "data.json").unlink()
    says = (
        r"which data it was trained on is not known here \(no data\.json of its run\)\. State each set with --data, as"
    )
    with pytest.raises(PublishError, match=says + r".* or card\.data to the recipe"):
        publish(pretrained, str(tmp_path / "out"), licence="mit")
    with pytest.raises(PublishError, match=says + r" --data 'NAME, LICENCE, how it was obtained'$"):
        publish(finetuned, str(tmp_path / "out"), licence="mit")
    assert not (tmp_path / "out").exists()
    (pretrained / "recipe.toml").write_text(RECIPE + 'license = "mit"\ndata = ["hf://datasets/lab/faces@v1, mit"]\n')
    save_checkpoint(pretrained, 30)
    publish(pretrained, str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["lab/faces"]
    assert "- hf://datasets/lab/faces@v1, mit\n" in card


def test_figures_of_another_model_are_not_published_as_this_ones(finetuned: Path, tmp_path: Path) -> None:
    place = finetuned / "evaluation" / "metrics.json"
    whole = json.loads(place.read_text())
    for other in ({"model": "baseline:pixels"}, {"model": "runs/x/model", "weights": "0" * 64}):
        place.write_text(json.dumps(whole | other))
        with pytest.raises(ValueError, match=f"metrics.json: is of another model, {other['model']}; evaluate this one"):
            publish(finetuned, str(tmp_path / "out"), licence="mit")
    place.write_text(json.dumps(whole | {"label_names": ["neutral"]}))
    with pytest.raises(ValueError, match="is of another model, with other expressions"):
        publish(finetuned, str(tmp_path / "out"), licence="mit")
    place.unlink()
    publish(finetuned, str(tmp_path / "out"), licence="mit")
    assert "\nNot evaluated: nothing is known of how often it is right" in (tmp_path / "out" / "README.md").read_text()


def test_a_card_that_the_hub_would_refuse_is_refused_before_anything_is_sent(
    pretrained: Path, tmp_path: Path, hub_server: Hub
) -> None:
    publish(pretrained, str(tmp_path / "encoder"), licence="mit")
    card = tmp_path / "encoder" / "README.md"
    card.write_text(card.read_text().replace("license: mit", "license: my own"))
    with pytest.raises(PublishError, match=r"README\.md: the Hub would refuse its front matter: license: 'my own'"):
        publish(tmp_path / "encoder", "hf://lab/faces")
    assert not hub_server.requests


def test_what_lies_far_away_is_pulled_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "https://example.org/sets/lfw", "out", "--licence", "x"]) == 2
    assert "https://example.org/sets/lfw: lies far away; `fer-scale pull` fetches it\n" in capsys.readouterr().err

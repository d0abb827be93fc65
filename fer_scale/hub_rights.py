"""Whether a repository of the Hub may be written to: asked before days are spent on what shall go there."""

from huggingface_hub import get_token, is_offline_mode
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from fer_scale import hub_client, hub_held, hub_tree
from fer_scale.artifact import MANIFEST
from fer_scale.hub_errors import Gated, HubError, NoRight, NotLoggedIn, plain_words
from fer_scale.hub_tree import Place
from shards.access import LOG_IN

_ELSE = "choose another name"


def may_write(address: str, kind: str = hub_held.MODEL, *, private: bool = False) -> str:
    """ "" where `address` may be written to, or made; why that is not known, where the Hub gives no clear answer.

    HubError where it may not, is public and should be `private`, or holds what one of this `kind` (hub_held.py) does
    not replace, as far as its file names tell. Two requests at most, each with its limit of time and none tried again;
    nothing is made or changed.
    """
    place = hub_tree.parse(address)
    if is_offline_mode():
        return "HF_HUB_OFFLINE=1 is set"
    try:
        with plain_words(address, place.page):
            there = _ask(place, private)
    except (NotLoggedIn, NoRight, Gated):
        raise
    except HubError as error:
        return str(error)
    hub_held.refuse_others(place, there, {kind})
    if hub_held.MODEL in hub_held.kinds_of(there) and MANIFEST not in there:
        raise NoRight(f"{place}: holds a model that this program did not publish, and does not replace; {_ELSE}")
    return ""


def _ask(place: Place, private: bool) -> set[str]:
    """The names of the files there; none where it can be made."""
    api = hub_client.connect()
    if not get_token():
        raise NotLoggedIn(f"{place}: not logged in; {LOG_IN}")
    try:
        api.auth_check(place.repo, repo_type=place.kind, write=True)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        _refuse_to_make(place)
        return set()
    info = hub_client.once(lambda: api.repo_info(place.repo, repo_type=place.kind, timeout=hub_client.SILENCE_S))
    if private and not info.private:
        raise NoRight(f"{place}: exists and is public, and what is to go there must be private; {_ELSE}")
    return {file.rfilename for file in getattr(info, "siblings", None) or ()}


def _refuse_to_make(place: Place) -> None:
    """There is no such repository, or none that this token may see."""
    me = hub_client.connect().whoami()
    namespaces = [me.get("name"), *(each.get("name") for each in me.get("orgs", ()))]
    namespace = place.repo.partition("/")[0]
    if namespace not in namespaces:
        raise NoRight(f"{place}: there is none, and {me.get('name')} may not make one under {namespace}")
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise NoRight(f"{place}: there is none, and this token may only read; make one that may write, and {LOG_IN}")

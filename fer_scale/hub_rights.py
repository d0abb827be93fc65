"""Whether a repository of the Hub may be written to: asked before days are spent on what shall go there."""

from huggingface_hub import get_token, is_offline_mode
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from fer_scale import hub_client, hub_tree
from fer_scale.hub_errors import LOG_IN, Gated, HubError, NoRight, NotLoggedIn, plain_words
from fer_scale.hub_tree import Place


def may_write(address: str, *, private: bool = False) -> str:
    """ "" where `address` may be written to, or made; why that is not known, where the Hub gives no clear answer.

    HubError where it may not, or is public and should be `private`. Two requests at most, each with its limit of time
    and none tried again; nothing is made or changed.
    """
    place = hub_tree.parse(address)
    if is_offline_mode():
        return "HF_HUB_OFFLINE=1 is set"
    try:
        with plain_words(address, place.page):
            _ask(place, private)
    except (NotLoggedIn, NoRight, Gated):
        raise
    except HubError as error:
        return str(error)
    return ""


def _ask(place: Place, private: bool) -> None:
    api = hub_client.connect()
    if not get_token():
        raise NotLoggedIn(f"{place}: not logged in; {LOG_IN}")
    try:
        api.auth_check(place.repo, repo_type=place.kind, write=True)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return _refuse_to_make(place)
    if private and not api.repo_info(place.repo, repo_type=place.kind, timeout=hub_client.SILENCE_S).private:
        raise NoRight(f"{place}: exists and is public, and what is to go there must be private; choose another name")


def _refuse_to_make(place: Place) -> None:
    """There is no such repository, or none that this token may see."""
    me = hub_client.connect().whoami()
    namespaces = [me.get("name"), *(each.get("name") for each in me.get("orgs", ()))]
    namespace = place.repo.partition("/")[0]
    if namespace not in namespaces:
        raise NoRight(f"{place}: there is none, and {me.get('name')} may not make one under {namespace}")
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise NoRight(f"{place}: there is none, and this token may only read; make one that may write, and {LOG_IN}")

"""Which request of the Hub's protocol goes where: request in, response out, no sockets."""

import re
from collections.abc import Callable
from urllib.parse import unquote

from hub import downloads, repositories, uploads
from hub.store import Refused, Store
from hub.wire import Request, Response, as_json


def answer(store: Store, request: Request) -> Response:
    """The response to a request, errors included: on http:// huggingface_hub looks at nothing but X-Error-Code."""
    try:
        for method, pattern, endpoint in ENDPOINTS:
            if request.method in method.split() and (match := re.fullmatch(pattern, request.path)):
                return endpoint(store, request, *_named(match))
        raise Refused(404, "Sorry, we can't find the page you are looking for.")
    except Refused as refused:
        headers = {"X-Error-Message": refused.words}
        if refused.code:
            headers["X-Error-Code"] = refused.code
        return as_json({"error": refused.words, **refused.more}, refused.status, headers)


def _named(match: re.Match[str]) -> list[str]:
    """What a path names: the repository, with datasets/ or spaces/ before those of data and of apps, and the rest."""
    parts = {key: unquote(part) for key, part in match.groupdict().items()}
    if kind := parts.pop("kind", "").rstrip("/").removeprefix("models"):
        parts["name"] = f"{kind}/{parts['name']}"
    return list(parts.values())


REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
PAGE = r"/(?P<kind>datasets/|spaces/|)(?P<name>[^/]+/[^/]+)"
REV, PATH, SHA256 = r"(?P<rev>[^/]+)", r"(?P<path>.+)", r"(?P<sha>[0-9a-f]{64})"
ENDPOINTS: list[tuple[str, str, Callable[..., Response]]] = [
    ("GET", "/api/whoami-v2", repositories.whoami),
    ("POST", "/api/repos/create", repositories.create),
    ("DELETE", "/api/repos/delete", repositories.delete),
    ("GET", REPO, repositories.info),
    ("GET", f"{REPO}/revision/{REV}", repositories.info),
    ("GET", f"{REPO}/tree/{REV}", repositories.tree),
    ("GET", f"{REPO}/tree/{REV}/{PATH}", repositories.tree),
    ("POST", f"{REPO}/paths-info/{REV}", repositories.paths_info),
    ("GET", f"{REPO}/commits/{REV}", repositories.history),
    ("GET", f"{REPO}/refs", repositories.refs),
    ("GET", f"{REPO}/auth-check(?P<write>|/write)", repositories.auth_check),
    ("POST DELETE", f"{REPO}/tag/{REV}", repositories.tag),
    ("POST", f"{REPO}/branch/{REV}", repositories.branch),
    ("PUT", f"{REPO}/settings", repositories.settings),
    ("POST", "/api/validate-yaml", uploads.validate_yaml),
    ("POST", f"{REPO}/preupload/{REV}", uploads.preupload),
    ("GET", f"{REPO}/xet-(?P<way>read|write)-token/{REV}", uploads.xet_token),
    ("POST", f"{REPO}/commit/{REV}", uploads.commit),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", uploads.lfs_batch),
    ("PUT", f"/lfs/{SHA256}", uploads.lfs_put),
    ("PUT", rf"/lfs/{SHA256}/(?P<part>\d+)", uploads.lfs_put_part),
    ("POST", f"/lfs/{SHA256}/complete", uploads.lfs_complete),
    ("POST", "/lfs/verify", uploads.lfs_verify),
    ("HEAD GET", f"{PAGE}/resolve/{REV}/{PATH}", downloads.resolve),
    ("HEAD GET", f"/cdn/{SHA256}", downloads.cdn),
]

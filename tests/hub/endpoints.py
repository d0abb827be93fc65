"""The endpoints of the Hub that publishing and pulling a model use: request in, response out, no sockets.

It follows what huggingface_hub 2.4 sends and expects. What must not be "simplified": small files are answered directly
while large ones are redirected to another origin (a redirect within one origin is followed by the HEAD request, and the
commit's headers are lost); errors carry X-Error-Code (on http:// nothing else is looked at); a 409 on creation carries
the repository's url.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from hub.store import File, Refused, Repo, Store, User, pointer

PAGE = 3  # entries of a tree in one answer: small, so that every listing is paged
LARGE = (".safetensors", ".png", ".jpg")
Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    user: User | None
    site: str  # http://127.0.0.1:PORT
    cdn: str  # http://localhost:PORT, another origin

    def json(self) -> Json:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def answer(store: Store, request: Request) -> Response:
    """The response to a request, errors included."""
    try:
        for method, pattern, endpoint in ENDPOINTS:
            if request.method in method.split() and (match := re.fullmatch(pattern, request.path)):
                return endpoint(store, request, *map(unquote, match.groups()))
        raise Refused(404, "Sorry, we can't find the page you are looking for.")
    except Refused as refused:
        headers = {"X-Error-Message": refused.words}
        if refused.code:
            headers["X-Error-Code"] = refused.code
        return _json({"error": refused.words, **refused.more}, refused.status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


# ---- who may do what


def _visible(store: Store, request: Request, name: str) -> Repo:
    repo, user = store.repos.get(name), request.user
    if repo is None or (repo.private and not (user and user.owns(name))):
        raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
    return repo


def _readable(store: Store, request: Request, name: str) -> Repo:
    repo = _visible(store, request, name)
    if repo.gated and not (request.user and request.user.owns(name)):
        raise Refused(403 if request.user else 401, f"Access to model {name} is restricted.", "GatedRepo")
    return repo


def _may_write(request: Request, name: str) -> None:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    if not request.user.may_write or not request.user.owns(name):
        raise Refused(403, f"You don't have the rights to create/write a repo under the namespace {name.split('/')[0]}")


def _writable(store: Store, request: Request, name: str) -> Repo:
    repo = _visible(store, request, name)
    _may_write(request, name)
    return repo


# ---- repositories


def create(store: Store, request: Request) -> Response:
    wanted = request.json()
    name = f"{wanted.get('organization') or (request.user.name if request.user else '')}/{wanted['name']}"
    _may_write(request, name)
    url = f"{request.site}/{name}"
    if name in store.repos:
        raise Refused(409, "You already created this model repo", url=url)
    store.create(name, private=wanted.get("visibility") == "private")
    return _json({"url": url, "name": name, "id": "0" * 24})


def info(store: Store, request: Request, name: str, revision: str = "main") -> Response:
    repo = _visible(store, request, name)
    commit = repo.at(revision)
    facts = {"id": name, "modelId": name, "author": name.split("/")[0], "sha": commit.sha, "private": repo.private}
    date = "2026-01-01T00:00:00.000Z"
    more = {"gated": repo.gated, "disabled": False, "tags": [], "lastModified": date, "createdAt": date}
    return _json(facts | more | {"siblings": [{"rfilename": path} for path in sorted(commit.files)]})


def tree(store: Store, request: Request, name: str, revision: str) -> Response:
    files = sorted(_readable(store, request, name).at(revision).files.items())
    start = int(request.query.get("cursor", ["0"])[0])
    headers = {}
    if start + PAGE < len(files):
        headers["Link"] = f'<{request.site}{request.path}?cursor={start + PAGE}>; rel="next"'
    return _json([_entry(path, file) for path, file in files[start : start + PAGE]], headers=headers)


def _entry(path: str, file: File) -> Json:
    entry: Json = {"type": "file", "path": path, "oid": file.git_sha1, "size": file.size}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256, file.size))}
    return entry


def refs(store: Store, request: Request, name: str) -> Response:
    repo = _visible(store, request, name)
    named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
    return _json(
        {"converts": [], "pullRequests": []}
        | {
            kind: [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": sha} for n, sha in refs.items()]
            for kind, (folder, refs) in named.items()
        }
    )


def tag(store: Store, request: Request, name: str, revision: str) -> Response:
    repo, wanted = _writable(store, request, name), request.json()["tag"]
    if wanted in repo.tags:
        raise Refused(409, f"Tag reference exists already: refs/tags/{wanted}")
    repo.tags[wanted] = repo.at(revision).sha
    return _json({})


def auth_check(store: Store, request: Request, name: str, write: str) -> Response:
    (_writable if write else _readable)(store, request, name)
    return _json({})


# ---- uploading


def validate_yaml(store: Store, request: Request) -> Response:
    """The card's front matter: far less than the Hub checks, but a card without any is noticed."""
    if not re.match(r"---\n(.*\n)+---\n", request.json()["content"]):
        return _json({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
    return _json({"errors": [], "warnings": []})


def preupload(store: Store, request: Request, name: str, revision: str) -> Response:
    there = _writable(store, request, name).at(revision).files
    files = []
    for wanted in request.json()["files"]:
        path = wanted["path"]
        mode = "lfs" if path.endswith(LARGE) else "regular"
        known = {"oid": there[path].sha256 if there[path].lfs else there[path].git_sha1} if path in there else {}
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return _json({"files": files, "commitOid": _visible(store, request, name).at(revision).sha})


def lfs_batch(store: Store, request: Request, name: str) -> Response:
    _writable(store, request, name)
    objects = []
    for wanted in request.json()["objects"]:
        actions = {
            "upload": {"href": f"{request.cdn}/lfs/{wanted['oid']}?signed=yes", "header": {}},
            "verify": {"href": f"{request.site}/lfs/verify", "header": {}},
        }
        objects.append(wanted | ({} if store.blob(wanted["oid"]).exists() else {"actions": actions}))
    return _json({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


def lfs_put(store: Store, request: Request, sha256: str) -> Response:
    _signed(request)
    if store.keep(request.body) != sha256:
        raise Refused(400, "sha256 mismatch")
    return Response()


def lfs_verify(store: Store, request: Request) -> Response:
    wanted = request.json()
    if not store.blob(wanted["oid"]).exists():
        raise Refused(404, "object missing")
    return _json({})


def commit(store: Store, request: Request, name: str, branch: str) -> Response:
    repo = _writable(store, request, name)
    head, title = repo.at(branch), ""
    files = dict(head.files)
    for line in request.body.splitlines():
        kind, value = (record := json.loads(line))["key"], record["value"]
        match kind:
            case "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head.sha):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            case "file":
                files[value["path"]] = store.small(base64.b64decode(value["content"]))
            case "lfsFile":
                files[value["path"]] = store.large(value["oid"])
            case "deletedFile":
                del files[value["path"]]
    sha = repo.commit(files, title, branch).sha
    return _json(
        {"success": True, "commitOid": sha, "commitUrl": f"{request.site}/{name}/commit/{sha}", "hookOutput": ""}
    )


# ---- downloading


def resolve(store: Store, request: Request, name: str, revision: str, path: str) -> Response:
    found = _readable(store, request, name).at(revision)
    headers = {"X-Repo-Commit": found.sha}
    if path not in found.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    file = found.files[path]
    headers["ETag"] = f'"{file.git_sha1}"'
    if not file.lfs:
        return Response(200, store.blob(file.sha256).read_bytes(), headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Response(302, b"", headers | {"Location": f"{request.cdn}/cdn/{file.sha256}?signed=yes"})


def cdn(store: Store, request: Request, sha256: str) -> Response:
    _signed(request)
    data, headers = store.blob(sha256).read_bytes(), {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    if wanted := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
        start = int(wanted[1])
        return Response(206, data[start:], headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})
    return Response(200, data, headers)


def _signed(request: Request) -> None:
    """The other origin knows signed addresses and must never see a token."""
    if "signed" not in request.query or "authorization" in request.headers:
        raise Refused(400, "a signed address, and no token, is what this origin takes")


REPO = r"/api/models/([^/]+/[^/]+)"
ENDPOINTS: list[tuple[str, str, Callable[..., Response]]] = [
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", REPO, info),
    ("GET", REPO + "/revision/([^/]+)", info),
    ("GET", REPO + "/tree/([^/]+)", tree),
    ("GET", REPO + "/refs", refs),
    ("GET", REPO + "/auth-check(|/write)", auth_check),
    ("POST", REPO + "/tag/([^/]+)", tag),
    ("POST", REPO + "/preupload/([^/]+)", preupload),
    ("POST", REPO + "/commit/([^/]+)", commit),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", lfs_put),
    ("POST", "/lfs/verify", lfs_verify),
    ("HEAD GET", "/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
    ("HEAD GET", "/cdn/([0-9a-f]{64})", cdn),
    ("GET", "/api/datasets/([^/]+/[^/]+)/revision/([^/]+)", info),  # datasets are only read here
    ("GET", "/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
]

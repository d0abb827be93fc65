"""The Hub's endpoints about users and repositories: what there is, who may, branches and tags."""

import json
import re
from typing import Any

from hub.store import Commit, File, Refused, Store, pointer
from hub.wire import Json, Request, Response, as_json, may_write, readable, visible, writable

_PREFIXES = {"dataset": "datasets/", "space": "spaces/"}
_DATE = "2026-01-01T00:00:00.000Z"


def whoami(store: Store, request: Request) -> Response:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    user = request.user
    token = {"displayName": "tests", "role": "write" if user.may_write else "read"}
    facts = {"type": "user", "id": "0" * 24, "name": user.name, "fullname": user.name}
    organisations = [{"type": "org", "name": name} for name in user.organisations]
    return as_json(facts | {"orgs": organisations, "auth": {"type": "access_token", "accessToken": token}})


def create(store: Store, request: Request) -> Response:
    wanted = request.json()
    name = f"{wanted.get('organization') or (request.user.name if request.user else '')}/{wanted['name']}"
    name = _PREFIXES.get(wanted.get("type"), "") + name
    may_write(request, name)
    if name.startswith("spaces/") and not wanted.get("sdk"):
        raise Refused(400, "a Space needs an sdk")
    url = f"{request.site}/{name}"
    if name in store.repos:
        raise Refused(409, "You already created this repo", url=url)
    store.create(name, private=wanted.get("visibility") == "private")
    return as_json({"url": url, "name": name, "id": "0" * 24})


def delete(store: Store, request: Request) -> Response:
    wanted = request.json()
    name = f"{wanted.get('organization') or (request.user.name if request.user else '')}/{wanted['name']}"
    name = _PREFIXES.get(wanted.get("type"), "") + name
    writable(store, request, name)
    del store.repos[name]
    return as_json({})


def settings(store: Store, request: Request, name: str) -> Response:
    repo, wanted = writable(store, request, name), request.json()
    if "visibility" in wanted:
        repo.private = wanted["visibility"] == "private"
    if "gated" in wanted:
        repo.gated = bool(wanted["gated"])
    return as_json({})


def info(store: Store, request: Request, name: str, revision: str = "main") -> Response:
    repo = visible(store, request, name)
    commit, plain = repo.at(revision), name.removeprefix("datasets/").removeprefix("spaces/")
    facts: Json = {"_id": "0" * 24, "id": plain, "author": plain.split("/")[0], "sha": commit.sha}
    facts |= {"private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False}
    facts |= {"modelId": plain} if plain == name else {}
    facts |= {"downloads": 0, "likes": 0, "lastModified": _DATE, "createdAt": _DATE} | _said_by(store, commit)
    blobs = "blobs" in request.query
    siblings = [{"rfilename": path} | (_details(file) if blobs else {}) for path, file in sorted(commit.files.items())]
    return as_json(facts | {"siblings": siblings})


def _said_by(store: Store, commit: Commit) -> Json:
    """What the Hub reads from the card's front matter: its lists of strings and its strings."""
    card = commit.files.get("README.md")
    text = store.blob(card.sha256).read_text() if card else ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    said: Json = {}
    for key, value in re.findall(r"^(\w+): *(\S.*)$", front[1] if front else "", re.MULTILINE):
        said[key] = value.strip("\"'")
    return {"cardData": said, "tags": []} | {k: said[k] for k in ("library_name", "pipeline_tag") if k in said}


def _details(file: File) -> Json:
    details: Json = {"size": file.size, "blobId": file.git_sha1}
    return details | ({"lfs": _lfs(file, "sha256")} if file.lfs else {})


def _lfs(file: File, called: str) -> Json:
    return {called: file.sha256, "size": file.size, "pointerSize": len(pointer(file.sha256, file.size))}


def tree(store: Store, request: Request, name: str, revision: str, folder: str = "") -> Response:
    """Pages of a listing: the folder's own entries, or with ?recursive=true those below it too."""
    repo = visible(store, request, name)
    listing = list(_listing(repo.at(revision), f"{folder}/" if folder else "", request.asked("recursive") in _YES))
    if folder and not listing:
        raise Refused(404, f'{folder} does not exist on "{revision}"', "EntryNotFound")
    start = int(request.asked("cursor", "0"))
    headers = {}
    if start + store.page < len(listing):
        query = f"recursive={request.asked('recursive', 'false')}&cursor={start + store.page}"
        headers["Link"] = f'<{request.site}{request.path}?{query}>; rel="next"'
    return as_json(listing[start : start + store.page], headers=headers)


_YES = ("true", "True", "1")


def _listing(commit: Commit, prefix: str, recursive: bool) -> Any:
    folders = set()
    for path, file in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            above = prefix + "/".join(parts[:depth])
            if above not in folders and (recursive or depth == 1):
                folders.add(above)
                yield {"type": "directory", "oid": "0" * 40, "size": 0, "path": above}
        if recursive or len(parts) == 1:
            yield entry(path, file)


def entry(path: str, file: File) -> Json:
    said: Json = {"type": "file", "path": path, "oid": file.git_sha1, "size": file.size}
    said |= {"lfs": _lfs(file, "oid")} if file.lfs else {}
    return said | ({"xetHash": file.xet} if file.xet else {})


def paths_info(store: Store, request: Request, name: str, revision: str) -> Response:
    commit = visible(store, request, name).at(revision)
    try:
        wanted = json.loads(request.body)["paths"]
    except ValueError:
        wanted = re.findall(r"paths=([^&]*)", request.body.decode())
    return as_json([entry(path, commit.files[path]) for path in wanted if path in commit.files])


def history(store: Store, request: Request, name: str, revision: str) -> Response:
    repo = visible(store, request, name)
    commits, sha = [], repo.at(revision).sha
    while sha:
        commit = repo.commits[sha]
        commits.append({"id": sha, "title": commit.title, "message": "", "authors": [], "date": _DATE})
        sha = commit.parent or ""
    return as_json(commits)


def refs(store: Store, request: Request, name: str) -> Response:
    repo = visible(store, request, name)
    named = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
    return as_json(
        {"converts": [], "pullRequests": []}
        | {
            kind: [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": sha} for n, sha in refs.items()]
            for kind, (folder, refs) in named.items()
        }
    )


def tag(store: Store, request: Request, name: str, revision: str) -> Response:
    repo = writable(store, request, name)
    if request.method == "DELETE":
        repo.tags.pop(revision, None)
        return as_json({})
    wanted = request.json()["tag"]
    if wanted in repo.tags:
        raise Refused(409, f"Tag reference exists already: refs/tags/{wanted}")
    repo.tags[wanted] = repo.at(revision).sha
    return as_json({})


def branch(store: Store, request: Request, name: str, wanted: str) -> Response:
    repo = writable(store, request, name)
    if wanted in repo.branches:
        raise Refused(409, f"Reference already exists: refs/heads/{wanted}")
    repo.branches[wanted] = repo.at(request.json().get("startingPoint") or "main").sha
    return as_json({})


def auth_check(store: Store, request: Request, name: str, write: str) -> Response:
    (writable if write else readable)(store, request, name)
    return as_json({})

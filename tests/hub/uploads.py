"""The Hub's endpoints that take files: by git for small ones, by LFS or Xet for large ones, and the commit of all."""

import base64
import hashlib
import json
import time

from hub import cards
from hub.store import File, Refused, Store
from hub.wire import Request, Response, as_json, signed, visible, writable

LARGE = (".safetensors", ".png", ".jpg", ".tar", ".gz", ".parquet", ".bin", ".pt", ".onnx", ".npz")
SMALL_MB = 10  # what is larger never lies in git itself


def validate_yaml(store: Store, request: Request) -> Response:
    """The card's front matter, by its form (cards.py)."""
    found = [{"message": message} for message in cards.errors(request.json()["content"])]
    return as_json({"errors": found, "warnings": []}, 400 if found else 200)


def preupload(store: Store, request: Request, name: str, revision: str) -> Response:
    """Which files go by which way; the hash of what lies at a path now, by which no-ops are found."""
    commit = writable(store, request, name).at(revision)
    files = []
    for wanted in request.json()["files"]:
        path, sample = wanted["path"], base64.b64decode(wanted.get("sample", ""))
        large = path.endswith(LARGE) or wanted["size"] > SMALL_MB << 20 or b"\0" in sample
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if file := commit.files.get(path):
            answer["oid"] = file.sha256 if file.lfs else file.git_sha1
        files.append(answer)
    return as_json({"files": files, "commitOid": commit.sha})


# ---- LFS


def lfs_batch(store: Store, request: Request, name: str) -> Response:
    writable(store, request, name)
    wanted = request.json()
    objects = []
    for each in wanted["objects"]:
        oid, size = each["oid"], each["size"]
        if store.blob(oid).exists():
            objects.append({"oid": oid, "size": size})
            continue
        part = store.multipart_over
        if part and size > part and "multipart" in wanted["transfers"]:
            urls = {f"{k + 1:05d}": f"{request.cdn}/lfs/{oid}/{k + 1}?signed=yes" for k in range(-(-size // part))}
            upload = {"href": f"{request.site}/lfs/{oid}/complete", "header": {"chunk_size": str(part), **urls}}
        else:
            upload = {"href": f"{request.cdn}/lfs/{oid}?signed=yes", "header": {}}
        verify = {"href": f"{request.site}/lfs/verify", "header": {}}
        objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
    transfer = "multipart" if store.multipart_over else "basic"
    return as_json({"transfer": transfer, "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


def lfs_put(store: Store, request: Request, sha256: str) -> Response:
    signed(request)
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise Refused(400, "sha256 mismatch")
    store.keep(request.body)
    return Response()


def lfs_put_part(store: Store, request: Request, sha256: str, number: str) -> Response:
    signed(request)
    store.parts[sha256, int(number)] = request.body
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


def lfs_complete(store: Store, request: Request, sha256: str) -> Response:
    parts = [store.parts.get((sha256, part["partNumber"]), b"") for part in request.json()["parts"]]
    tags = [f'"{hashlib.md5(part).hexdigest()}"' for part in parts]
    if tags != [part["etag"] for part in request.json()["parts"]]:
        raise Refused(400, "a part is not what was sent")
    if hashlib.sha256(b"".join(parts)).hexdigest() != sha256:
        raise Refused(400, "sha256 mismatch after multipart")
    store.keep(b"".join(parts))
    return as_json({})


def lfs_verify(store: Store, request: Request) -> Response:
    blob = store.blob(request.json()["oid"])
    if not blob.exists() or blob.stat().st_size != request.json()["size"]:
        raise Refused(404, "object missing")
    return as_json({})


# ---- Xet


def xet_token(store: Store, request: Request, name: str, way: str, revision: str) -> Response:
    """Where the chunks go: to a folder of this machine, which hf_xet takes for a store of chunks (store.Xet)."""
    if store.xet is None:
        raise Refused(404, "no Xet here")
    (writable if way == "write" else visible)(store, request, name)
    until = int(time.time()) + 3600
    said = {"accessToken": "chunks", "exp": until, "casUrl": store.xet.url}
    headers = {"X-Xet-Cas-Url": store.xet.url, "X-Xet-Access-Token": "chunks", "X-Xet-Token-Expiration": str(until)}
    return as_json(said, headers=headers)


# ---- the commit


def commit(store: Store, request: Request, name: str, branch: str) -> Response:
    repo = writable(store, request, name)
    head = repo.at(branch)
    if branch not in repo.branches:
        raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, head.sha):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(head.files)
    for line in lines:
        if line["key"] != "header":
            _apply(store, files, line["key"], line["value"])
    sha = repo.commit(files, header["summary"], branch).sha
    url = f"{request.site}/{name}/commit/{sha}"
    return as_json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


def _apply(store: Store, files: dict[str, File], kind: str, value: dict[str, str]) -> None:
    path = value["path"]
    if any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
        raise Refused(400, f"Invalid path {path}")
    match kind:
        case "file":
            data = base64.b64decode(value["content"])
            if len(data) > SMALL_MB << 20:
                raise Refused(413, "too large for a regular file")
            files[path] = store.small(data)
        case "lfsFile":
            files[path] = store.large(value["oid"], int(value["size"]))
        case "deletedFile":
            if path not in files:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[path]
        case "deletedFolder":
            for below in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[below]

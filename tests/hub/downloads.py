"""The Hub's endpoints that give files.

What must not be "simplified": small files are answered directly while large ones are redirected to another origin (a
redirect within one origin is followed by the HEAD request, and the commit's headers are lost).
"""

import re

from hub.store import Refused, Store
from hub.wire import Request, Response, readable, signed


def resolve(store: Store, request: Request, name: str, revision: str, path: str) -> Response:
    found = readable(store, request, name).at(revision)
    headers = {"X-Repo-Commit": found.sha, "Accept-Ranges": "bytes"}
    if path not in found.files:
        raise Refused(404, "Entry not found", "EntryNotFound")
    file = found.files[path]
    headers["ETag"] = f'"{file.git_sha1}"'
    if not file.lfs:
        return _ranged(store.blob(file.sha256).read_bytes(), request, headers)
    headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if file.xet:
        kind, plain = ("datasets", name.removeprefix("datasets/")) if name.startswith("datasets/") else ("models", name)
        token = f"{request.site}/api/{kind}/{plain}/xet-read-token/{found.sha}"
        headers |= {"X-Xet-Hash": file.xet, "Link": f'<{token}>; rel="xet-auth"'}
    return Response(302, b"", headers | {"Location": f"{request.cdn}/cdn/{file.sha256}?signed=yes"})


def cdn(store: Store, request: Request, sha256: str) -> Response:
    signed(request)
    if not store.blob(sha256).exists():
        raise Refused(404, "only Xet has these bytes here")
    return _ranged(store.blob(sha256).read_bytes(), request, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def _ranged(data: bytes, request: Request, headers: dict[str, str]) -> Response:
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not wanted or not (wanted[1] or wanted[2]):
        return Response(200, data, headers)
    start = int(wanted[1]) if wanted[1] else max(0, len(data) - int(wanted[2]))
    end = min(int(wanted[2]), len(data) - 1) if wanted[1] and wanted[2] else len(data) - 1
    if start > end:
        return Response(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
    return Response(206, data[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

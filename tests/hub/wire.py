"""What goes over the wire of the loopback Hub, without sockets: a request, a response, and who may ask for what."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub.store import Refused, Repo, Store, User

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

    def asked(self, name: str, otherwise: str = "") -> str:
        """A value of the query."""
        return self.query.get(name, [otherwise])[0]


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def visible(store: Store, request: Request, name: str) -> Repo:
    """The repository, if whoever asks may know of it. A gated one is known to all; only its bytes are kept back."""
    repo, user = store.repos.get(name), request.user
    if repo is None or (repo.private and not (user and user.owns(name))):
        raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
    return repo


def readable(store: Store, request: Request, name: str) -> Repo:
    """The repository, if whoever asks may have its bytes."""
    repo = visible(store, request, name)
    if repo.gated and not (request.user and (request.user.owns(name) or request.user.name in repo.granted)):
        raise Refused(403 if request.user else 401, f"Access to model {name} is restricted.", "GatedRepo")
    return repo


def may_write(request: Request, name: str) -> None:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    if not request.user.may_write or not request.user.owns(name):
        owner = name.split("/")[-2]
        raise Refused(403, f"You don't have the rights to create/write a repo under the namespace {owner}")


def writable(store: Store, request: Request, name: str) -> Repo:
    """The repository, if whoever asks may change it."""
    repo = visible(store, request, name)
    may_write(request, name)
    return repo


def signed(request: Request) -> None:
    """The other origin knows signed addresses and must never see a token."""
    if "signed" not in request.query or "authorization" in request.headers:
        raise Refused(400, "a signed address, and no token, is what this origin takes")

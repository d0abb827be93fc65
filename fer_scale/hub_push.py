"""Files to a repository of the Hub: one commit, all of it or nothing, and the same again costs nothing.

`upload_folder` of huggingface_hub 2.4 makes several commits of one release and may stop between them. Here the bytes
of large files are sent first, in batches, and what the Hub has by then is not sent again, so that a push that was
killed goes on; then ONE `create_commit`, guarded by its parent. The remote tree decides whether it is needed and
whether it has arrived, so a lost response costs nothing and makes no second commit.
"""

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils._runtime import is_xet_available

from fer_scale import hub_client, hub_held, hub_xet, log
from fer_scale.artifact import CARD, SIGNATURE
from fer_scale.hub_client import TRIES, once, patiently
from fer_scale.hub_errors import Changed, Crowded, HubError, StrangeHub, may_pass, status_of
from fer_scale.hub_tree import Entry, Place, digest_of, hexadecimal, tree

Progress = Callable[[int, int], None]  # bytes done, bytes in all
_BATCH_FILES, _BATCH_BYTES = 50, 1 << 30  # a batch is sent before the next one begins


def push(
    place: Place,
    files: Mapping[str, Path],
    message: str,
    *,
    private: bool,
    card: bool,
    progress: Progress,
) -> str:
    """The commit that holds `files`: an older one if it does, else a new one, without what our own list there names.

    Where nothing but the card differs it stays as it is there, which is said, unless the `card` is wanted. HubError
    where a file of somebody else would be replaced.
    """
    head, local = _begin(place, private), _Local(files)
    if place.revision and (commit := _tagged(place)):
        if _to_send(place, tree(place, commit), local, card=card):
            raise Changed(f"{place}: this tag marks something else already, and a tag never moves; choose a new one")
        return commit
    upload = _Upload(place, files, progress)
    for attempt in range(TRIES + 1):  # the last only looks
        there = tree(place, head)
        new = _to_send(place, there, local, card=card)
        if not new:
            _tag(place, head)
            return head
        if attempt == TRIES:
            break
        hub_held.refuse_others(place, there, hub_held.kinds_of(files))
        ours = hub_held.held(place, head, there)
        hub_held.refuse_to_replace(place, (there.keys() & {*new}) - ours)
        stale = sorted(ours - files.keys())
        try:
            head = _commit(place, head, upload.sent(new), stale, message)
        except Exception as error:
            if attempt == TRIES - 1 or not (may_pass(error) or status_of(error) == 412):
                raise
            hub_client.wait(attempt, error)
            head = _head(place, private)
    raise Crowded(f"{place}: after {TRIES} commits it still differs from what was sent; does somebody else push too?")


# ---- the repository


def _begin(place: Place, private: bool) -> str:
    """The newest commit of the repository, which is made if need be, and which this token may write to."""
    api = hub_client.connect()
    try:
        head = _head(place, private)
    except RepositoryNotFoundError:
        sdk = "gradio" if place.kind == "space" else None
        patiently(
            lambda: api.create_repo(place.repo, repo_type=place.kind, private=private, exist_ok=True, space_sdk=sdk)
        )
        head = _head(place, private)
    patiently(lambda: api.auth_check(place.repo, repo_type=place.kind, write=True))
    return head


def _head(place: Place, private: bool) -> str:
    api = hub_client.connect()
    info = patiently(lambda: api.repo_info(place.repo, repo_type=place.kind, timeout=hub_client.SILENCE_S))
    if private and not info.private:
        raise HubError(f"{place}: exists and is public; make it private on its page, or publish without --private")
    return hexadecimal(info.sha)


def _tagged(place: Place) -> str | None:
    """The commit that the address's tag marks, if there is such a tag."""
    api = hub_client.connect()
    refs = patiently(lambda: api.list_repo_refs(place.repo, repo_type=place.kind))
    if place.revision in {branch.name for branch in refs.branches}:
        raise HubError(f"{place}: {place.revision!r} is a branch; publish to {place.page} without it, or with a tag")
    return next((tag.target_commit for tag in refs.tags if tag.name == place.revision), None)


def _tag(place: Place, commit: str) -> None:
    """Set the address's tag, if it has one, on the commit."""
    api, tag = hub_client.connect(), place.revision
    if not tag:
        return
    for _ in range(TRIES):
        patiently(lambda: api.create_tag(place.repo, repo_type=place.kind, tag=tag, revision=commit, exist_ok=True))
        if (marked := _tagged(place)) == commit:
            return
        if marked:
            raise Changed(f"{place}: somebody else set this tag meanwhile; choose a new one")
    raise StrangeHub(f"{place}: the Hub takes the tag and does not set it; publish again, {commit} is there")


# ---- what has to be done


class _Local:
    """Files here and their hashes, each computed once."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self._known: dict[tuple[str, bool], str] = {}

    def hash(self, name: str, *, large: bool) -> str:
        if (name, large) not in self._known:
            self._known[name, large] = digest_of(self.files[name], large=large)
        return self._known[name, large]


def _to_send(place: Place, there: dict[str, Entry], local: _Local, *, card: bool) -> list[str]:
    """The names of files to send; not a card that is there, where the model is the same, unless the `card` is wanted.

    What is to go is named by a list, which then differs too (hub_held.py).
    """
    new = []
    for name, path in local.files.items():
        entry = there.get(name)
        if entry is None or entry.size != path.stat().st_size:
            new.append(name)
        elif local.hash(name, large=entry.large) != entry.hash:
            new.append(name)
    same_model = {*new} <= {CARD, SIGNATURE}  # one signed again has another signature
    if CARD in new and CARD in there and same_model and not card:
        log.say(
            f"note     the card of {place} stays as it is, for nothing else differs and somebody may have edited it: "
            "edit it there, or publish a model to a folder first, and that folder"
        )
        new.remove(CARD)
    return new


def _commit(place: Place, head: str, new: list[CommitOperationAdd], stale: list[str], message: str) -> str:
    """One commit on top of `head`; whether it holds what was meant is for the caller to see."""
    api = hub_client.connect()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *new,
        *(CommitOperationDelete(name, is_folder=False) for name in stale),
    ]
    made = once(
        lambda: api.create_commit(
            place.repo, operations, commit_message=message, repo_type=place.kind, parent_commit=head
        )
    )
    for operation in new:
        operation._is_committed = False  # it may be needed again, should somebody else's commit come in between
    return hexadecimal(made.oid)


# ---- the bytes


class _Upload:
    """Files on their way, each of which is sent once; tells how many bytes have left."""

    def __init__(self, place: Place, files: Mapping[str, Path], progress: Progress) -> None:
        self._place, self._files, self._progress = place, files, progress
        self._operations: dict[str, _Counted] = {}
        self._sizes = {name: path.stat().st_size for name, path in files.items()}
        self._left: dict[str, int] = {}  # bytes of a file that have left
        self._lock, self._shown, self._total = threading.Lock(), 0, 0

    def sent(self, names: list[str]) -> list[CommitOperationAdd]:
        """These files as parts of a commit, after the bytes of the large ones have been sent."""
        for name in names:
            if name not in self._operations:
                self._operations[name] = operation = _Counted(name, str(self._files[name]))
                operation.count = functools.partial(self._tell, name)
                self._total += self._sizes[name]
        for batch in self._batches(names):
            with hub_xet.seen(functools.partial(self._tell_batch, batch)):
                self._send(batch)
            self._tell_batch(batch, sum(self._sizes[name] for name in batch))
        return [self._operations[name] for name in names]

    def _send(self, batch: list[str]) -> None:
        api, operations = hub_client.connect(), [self._operations[name] for name in batch]

        for operation in operations if not is_xet_available() else ():
            _ = operation.upload_info.sha256  # takes its time, in which nothing comes from the Hub

        def send() -> None:
            api.preupload_lfs_files(self._place.repo, operations, repo_type=self._place.kind)

        patiently(lambda: hub_xet.watched(send))

    def _batches(self, names: list[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        size = 0
        for name in names:
            if batch and (len(batch) == _BATCH_FILES or size + self._sizes[name] > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(name)
            size += self._sizes[name]
        if batch:
            yield batch

    def _tell(self, name: str, position: int) -> None:
        with self._lock:  # several files are sent at once
            more = max(0, position - self._left.get(name, 0))
            self._left[name] = self._left.get(name, 0) + more
            self._shown += more
            self._progress(self._shown, self._total)

    def _tell_batch(self, batch: list[str], done: int) -> None:
        """What is known of a batch as a whole, dealt to its files in order."""
        for name in batch:
            self._tell(name, min(done, self._sizes[name]))
            done -= min(done, self._sizes[name])


class _Counted(CommitOperationAdd):
    """A file to be sent by LFS, that tells up to which byte it has been read; huggingface_hub would draw a bar."""

    count: Callable[[int], None]

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        with super().as_file() as file:
            read = file.read

            def counted(size: int = -1) -> bytes:
                data = read(size)
                hub_client.alive()
                self.count(file.tell())
                return data

            if with_tqdm:
                file.read = counted  # type: ignore[method-assign]
            yield file

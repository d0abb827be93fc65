"""The processes of a run, as both loops know them, and how they decide alike: by what the main one finds.

pretrain/world.py and finetune/processes.py are such peers.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

from shards.errors import Broken, UserError

T = TypeVar("T")


class Peers(Protocol):
    """This process among its peers; the methods must be called by all of them together, in one order."""

    @property
    def rank(self) -> int: ...

    @property
    def is_main(self) -> bool: ...

    @property
    def name(self) -> str:
        """As messages call it, with its host."""

    def tell(self, value: Any, *, of: int = 0) -> Any:
        """What rank `of` has."""

    def collect(self, value: Any) -> list[Any]:
        """What every rank has, in the order of the ranks."""

    def broadcast(self, tensor: Tensor, *, of: int) -> Tensor:
        """Rank `of`'s tensor, on the CPU; the others give an empty one of its shape."""


def not_met(error: RuntimeError) -> Broken:
    """What to raise where torch says that a rank has not come."""
    return Broken(
        "the ranks did not find one another: does one not start, does a firewall stand between the hosts, or has one "
        f"several networks (INTERFACE=eth0)? {str(error).partition(chr(10))[0]}"
    )


def by_main(us: Peers, work: Callable[[], T]) -> T:
    """What `work` returns, on all ranks, though only the main one does it. What it fails of is raised on all.

    Else the others would wait for it where they meet next.
    """
    found: T | None = None
    problem: Exception | None = None
    if us.is_main:
        try:
            found = work()
        except (UserError, OSError) as error:
            problem = error
    found, problem = us.tell((found, problem))
    if problem:
        raise problem
    return found  # type: ignore[return-value]  # what the main one has


def same_everywhere(us: Peers, **facts: Any) -> None:
    """Refuse to train where a rank has another value than rank 0: all ranks raise, naming rank and difference."""
    told = us.collect((us.name, facts))
    _, wanted = told[0]
    for name, found in told[1:]:
        lines = [
            f"{what}{f' {key}' * bool(key)}: {a} there, {b} on rank 0"
            for what in wanted
            for key, a, b in _differences(found[what], wanted[what])
        ]
        if lines:
            raise UserError(
                f"{name} differs from rank 0 and would train something else:\n  " + "\n  ".join(lines[:10])
                + "\nmake all hosts alike (`fer-scale doctor` compares them) and start again"
            )  # fmt: skip


def _differences(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """(where, in `a`, in `b`) for every part that is not the same."""
    if a == b:
        return []
    if isinstance(a, dict) and isinstance(b, dict):
        return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return [("", a, b)]

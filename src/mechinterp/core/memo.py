"""Values that are made once while they are asked for again and again: a trace's examples, a model's run on them.

Nothing is remembered unless a caller says for how long, so no value outlives what it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

_T = TypeVar("_T")
_MEMORIES: ContextVar[dict[str, dict[Hashable, object]] | None] = ContextVar("memories", default=None)


@contextmanager
def remembering(kind: str, memory: dict[Hashable, object] | None = None) -> Iterator[None]:
    """Within, each value of a kind is made once; on leaving they are forgotten. Within itself it changes nothing.

    Args:
        kind: `draws`, examples and what depends on them alone; `runs`, what a model makes of them. Whoever changes a
            model within must not remember its runs.
        memory: Keeps the values for the next time, for work that is done piece by piece; None forgets them.
    """
    memories = _MEMORIES.get() or {}
    if kind in memories:
        yield
        return
    token = _MEMORIES.set({**memories, kind: {} if memory is None else memory})
    try:
        yield
    finally:
        _MEMORIES.reset(token)


def remembers(kind: str) -> bool:
    """Whether values of a kind are remembered now."""
    return kind in (_MEMORIES.get() or {})


def remembered(kind: str, key: Hashable, make: Callable[[], _T]) -> _T:
    """A value that is made once while values of its kind are remembered, and each time otherwise.

    Args:
        kind: As for `remembering`.
        key: What the value depends on. Tensors, batches and models count by identity, and live as long as the value.
        make: Makes the value; nobody may change it.

    >>> calls = []
    >>> with remembering("draws"):
    ...     _ = [remembered("draws", "key", lambda: calls.append(1)) for _ in range(3)]
    >>> len(calls)
    1
    """
    memory = (_MEMORIES.get() or {}).get(kind)
    if memory is None:
        return make()
    try:
        if key not in memory:
            memory[key] = make()
        return cast(_T, memory[key])
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return make()

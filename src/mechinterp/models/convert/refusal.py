"""All reasons why a model cannot be expressed, told at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mechinterp.core import UnsupportedError


def refuse_if(reasons: Sequence[str], what: str) -> None:
    """Refuse a model.

    Args:
        reasons: Why; nothing happens where there is none.
        what: The model.

    Raises:
        UnsupportedError: With every reason.
    """
    if reasons:
        raise UnsupportedError(f"no Transformer for this {what}: {'; '.join(reasons)}")


def few(names: Iterable[str], most: int = 4) -> str:
    """Some names, and how many more there are."""
    listed = [f"'{name}'" for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more

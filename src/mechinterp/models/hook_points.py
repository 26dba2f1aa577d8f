"""A hook point costs nothing until something hooks it: what only a hook would see is computed only then."""

from __future__ import annotations

from transformer_lens.hook_points import HookPoint


def hooked(*points: HookPoint) -> bool:
    """Whether anything reads or edits one of these hook points."""
    return any(p._forward_hooks or p._backward_hooks or p._forward_pre_hooks for p in points)

"""How much faster each task draws examples than training uses them."""

from __future__ import annotations

from mechinterp import tasks as room
from mechinterp.bench.timing import Figures, alternate, figures
from mechinterp.training import Trainer, resolve

_MEANING = "a whole step of training on a task's preset over drawing its examples; the slowest task; target >= 10"
SHIPPED = ("induction", "markov", "classification", "regression", "modular", "recall", "moving_sum")


def tasks(quick: bool = False) -> Figures:
    """A whole training step (draw, forward, backward, update) over drawing that step's examples alone.

    Args:
        quick: Two blocks a task, to see that it runs.

    Returns:
        `ratio`, `low`, `high` of the task that comes off worst; `sizes` has all.
    """
    rows = [_one(name, quick) for name in SHIPPED]
    return figures("tasks", _MEANING, 10.0, rows, min(rows, key=lambda row: row["ratio"]))


def _one(name: str, quick: bool) -> Figures:
    task = room.get(name)
    trainer = Trainer.of(task, *resolve(task), seed=0)
    size, turn = trainer.settings.batch_size, iter(range(10**9))
    calls = (1, 1) if quick else (5, 20)
    times = alternate(
        lambda: trainer.step(next(turn)), lambda: task.training_batch(size, 0, next(turn)), 2 if quick else 20, calls
    )
    inputs = task.training_batch(size, 0, 0).inputs
    return {
        "size": name,
        **times.ratio(),
        **times.seconds("step_seconds", "draw_seconds"),
        "shape": f"{trainer.model.config.n_layers} layers, batch {' x '.join(map(str, inputs.shape))}",
    }

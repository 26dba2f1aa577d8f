"""The tiny run that the tests of training share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = dict(n_layers=1, n_heads=2, d_model=8, steps=4, batch_size=2)
TINY |= dict(log_checkpoints=0, linear_checkpoints=2, log_every=1)


@pytest.fixture(scope="session")
def task():
    from mechinterp.tasks import Induction

    return Induction(vocab=16, seq_len=12, segment=4, repeats=2)


@pytest.fixture(scope="session")
def tiny_train(task) -> Callable[..., Any]:
    """Train the tiny run into a folder; settings can be changed."""
    from mechinterp.training import train

    return lambda out, **settings: train(task, out=out, **{**TINY, **settings})


@pytest.fixture(scope="session")
def tiny_run(tiny_train, tmp_path_factory) -> Any:
    """One finished tiny run; read only."""
    return tiny_train(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class QuickOs:
    """`os` that waits for no disk: what is written is the same, and only a real power cut could tell."""

    def __getattr__(self, name: str) -> Any:
        return (lambda handle: None) if name == "fsync" else getattr(os, name)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    from mechinterp.training import files

    monkeypatch.setattr(files, "os", QuickOs())

"""What the tests of shipped circuits share."""

from collections.abc import Callable, Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def shuffled() -> ModuleType:
    """The helpers of `shuffled.py`; it imports mechinterp, so it is opened only when the shape checks are in place."""
    spec = spec_from_file_location("circuits_shuffled", Path(__file__).with_name("shuffled.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train_shuffled(shuffled: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`train_shuffled(task, seed=0, **overrides)`: a model trained on targets that were shuffled among sequences."""
    folder = tmp_path_factory.mktemp("shuffled")

    def train(task, seed: int = 0, **overrides):
        return shuffled.train_shuffled(task, folder / f"{task.name}-{seed}", seed, **overrides)

    return train


@pytest.fixture(scope="session")
def failing() -> Callable[..., set[str]]:
    """`failing(circuit, claims, **models)`: the claims that other models in the place of shipped ones do not meet."""

    def ask(circuit: str, claims: Iterable[str], **models) -> set[str]:
        from mechinterp.claims import verify

        given = {name.replace("_", "-"): model for name, model in models.items()}
        found = verify(circuit, models=given, only=list(claims))
        return {one.claim for one in found if one.verdict == "not reproduced" and not one.reason}

    return ask

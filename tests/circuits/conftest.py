"""What the tests of shipped circuits share."""

from collections.abc import Callable, Iterable

import pytest


@pytest.fixture(scope="session")
def train_shuffled(tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`train_shuffled(task, seed=0, **overrides)`: a model that takes a shipped one's place."""
    folder = tmp_path_factory.mktemp("shuffled")

    def on_shuffled(task, seed: int = 0, **overrides):
        from mechinterp.training import train

        run = train(task, seed=seed, out=folder / f"{task.name}-{seed}", null="shuffled-targets", **overrides)
        return run.model()

    return on_shuffled


@pytest.fixture(scope="session")
def failing() -> Callable[..., set[str]]:
    """`failing(circuit, claims, **models)`: the claims that other models in the place of shipped ones do not meet."""

    def ask(circuit: str, claims: Iterable[str], **models) -> set[str]:
        from mechinterp.claims import verify

        given = {name.replace("_", "-"): model for name, model in models.items()}
        found = verify(circuit, models=given, only=list(claims))
        # What cannot be asked of a model is NaN, with a reason.
        return {one.claim for one in found if one.verdict == "not reproduced" and not _impossible(one)}

    return ask


def _impossible(result) -> bool:
    return bool(result.reason) and result.measured != result.measured

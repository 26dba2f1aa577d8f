"""What pytest gets from this package: fixtures that load or train a circuit once, markers, and claims as tests.

It loads by itself wherever the package is installed, and imports nothing heavy before a test asks for it.

- `shipped_circuit("induction")`: a circuit that ships, or a folder of your own, opened once per session.
- `trained_run(task, steps=600)`: a Run, trained once per session, also across the workers of pytest-xdist.
- `@pytest.mark.shipped`, `@pytest.mark.retrained`: tests on shipped weights, and tests that train models from scratch,
  which are skipped unless pytest is called with `--retrained`.
- `pytest path/to/claims.toml` runs each claim of a folder as a test, on its shipped weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mechinterp.claims import LoadedCircuit
    from mechinterp.models import ModelConfig
    from mechinterp.tasks import Task
    from mechinterp.training import Run, TrainConfig

MARKERS = (
    "shipped: checks a circuit's shipped weights",
    "retrained: trains models from scratch; runs with --retrained only",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--retrained`."""
    group = parser.getgroup("mechinterp")
    group.addoption("--retrained", action="store_true", help="also run tests that train models from scratch")


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes long, unless it was asked for."""
    if config.getoption("--retrained"):
        return
    for item in items:
        if item.get_closest_marker("retrained"):
            item.add_marker(pytest.mark.skip(reason="trains models from scratch: run pytest with --retrained"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A `claims.toml` that was named on the command line is a file of tests."""
    if file_path.name == "claims.toml" and parent.session.isinitpath(file_path):
        return ClaimsTests.from_parent(parent, path=file_path)
    return None


@pytest.fixture(scope="session")
def shipped_circuit() -> Callable[[str], LoadedCircuit]:
    """A function from a circuit's name, or the path of a folder, to the opened circuit."""
    return _opened


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A function like `mechinterp.train`, without `out`: equal settings and seed are trained once per session."""
    root = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent  # the session's own folder, which the workers share

    def train(
        task: Task | str,
        model: ModelConfig | dict[str, object] | None = None,
        training: TrainConfig | dict[str, object] | None = None,
        seed: int = 0,
        **overrides: object,
    ) -> Run:
        from filelock import FileLock

        from mechinterp import tasks
        from mechinterp import training as rooms
        from mechinterp.core.digest import digest

        drawn = tasks.get(task) if isinstance(task, str) else task
        architecture, settings = rooms.resolve(drawn, model, training, overrides)
        parts = [drawn.to_dict(), architecture.model_dump(mode="json"), settings.model_dump(mode="json"), seed]
        key = digest(parts, 12)
        folder = root / "mechinterp-runs" / f"{drawn.name}-{seed}-{key}"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            return rooms.train(drawn, architecture, settings, seed, out=folder, resume=True)

    return train


class ClaimsTests(pytest.File):
    """A `claims.toml` and the folder it lies in."""

    def collect(self) -> Iterable[pytest.Item]:
        """One test per claim that can be checked on shipped weights."""
        from mechinterp.core import MechinterpError

        try:
            circuit = _opened(str(self.path.parent))
        except MechinterpError as error:
            raise self.CollectError(str(error)) from None
        for claim in circuit.claims:
            if "shipped" in claim.on and not claim.not_testable:
                yield ClaimTest.from_parent(self, name=claim.id)


class ClaimTest(pytest.Item):
    """One claim."""

    def runtest(self) -> None:
        """Check it."""
        from mechinterp.claims import assert_claim

        assert_claim(self.name, circuit=_opened(str(self.path.parent)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The claim's own words, without a traceback through this package."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the claim stands."""
        return self.path, None, f"claim {self.name}"


@cache
def _opened(name: str) -> LoadedCircuit:
    from mechinterp.claims import load_circuit

    return load_circuit(name)

"""Shared set-up of the tests. It imports nothing of mechinterp itself: the shape checks must be in place first."""

import pytest
import torch
from hypothesis import settings

# The same examples on every machine, and no failure because a machine was busy.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    # One thread per process: two workers fill two cores, and sums come out the same with and without workers.
    torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed; tests never seed torch's global one."""
    return torch.Generator().manual_seed(0)

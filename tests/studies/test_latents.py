"""A latent that is read before it is used, one that is never used, and one that cannot be read."""

import numpy as np
import pytest
import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.studies import latent_line, read_and_used

STEPS = np.unique(np.geomspace(1, 1000, 30).round())


def line() -> xr.Dataset:
    """Excess of score and of cost for three latents after one layer; 64 examples."""
    jump = lambda t0, size: np.where(t0 <= STEPS, size, 0.0)  # noqa: E731
    values = {
        "read": np.stack([jump(20, 0.6), jump(50, 0.4), jump(2000, 0.5)], 1),
        "used": np.stack([jump(200, 1.0), np.full(len(STEPS), 0.05), np.zeros(len(STEPS))], 1),
    }
    rng = np.random.default_rng(0)
    mean = np.stack([one + 0.01 * rng.normal(size=one.shape) for one in values.values()], 1)[..., None]
    dims = ("step", "evidence", "latent", "layer")
    parts = {"latent_use": mean, "latent_use_se": np.full(mean.shape, 0.01), "latent_use_n": np.full(mean.shape, 64)}
    coords = {"step": STEPS, "evidence": list(values), "latent": ["early", "idle", "hidden"]}
    return xr.Dataset({name: (dims, part) for name, part in parts.items()}, coords=coords)


def test_each_latent_is_told_in_words():
    dates = read_and_used(line())
    read, used = (STEPS[at <= STEPS][0] for at in (20, 200))
    assert (
        latent_line(dates, "early", 0)
        == f"early after layer 0: can be read from step {read:g}, used from step {used:g}"
    )
    idle = latent_line(dates, "idle", 0)
    assert idle.endswith("no use shown") and "can be read from" in idle
    assert latent_line(dates, "hidden", 0) == "hidden after layer 0: cannot be read, no use shown"
    # However certain, a cost of 0.05 nats is below what counts; a smaller bar lets it pass.
    assert "used from step 1" in latent_line(read_and_used(line(), least_used=0.01), "idle", 0)


def test_a_timeline_without_the_measure_is_refused():
    with pytest.raises(ConfigError, match="trace the measure 'latent_use' first"):
        read_and_used(line().rename(latent_use="other"))

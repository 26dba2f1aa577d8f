"""When a latent can be read from a model, and when the model begins to use it."""

from __future__ import annotations

import xarray as xr

from mechinterp.core import ConfigError
from mechinterp.curves import FALSE_DISCOVERY, LASTS, dated_effects
from mechinterp.studies.part import CLEAR, words


def read_and_used(
    timeline: xr.Dataset,
    name: str = "latent_use",
    least_read: float = CLEAR,
    least_used: float = 0.1,
    level: float = FALSE_DISCOVERY,
    lasts: float = LASTS,
) -> xr.Dataset:
    """From which step on each latent can be read after each layer, and from which on erasing it there costs.

    Both are dated by `dated_effects`, over all latents and layers, at one false discovery rate each: reading is the
    probe's score beyond that of shuffled labels, use is the cost of erasing beyond that of as many random directions.

    Args:
        timeline: A trace of the measure `latent_use`.
        name: Its name there.
        least_read: Least excess of the score, in accuracy or R2.
        least_used: Least excess of the cost, in the metric's unit (nats, or squared distance).
        level: False discovery rate.
        lasts: Least time of either in ln t.

    Returns:
        By `latent`, `layer`, and `what` (`read`, `used`): what `dated_effects` returns.

    Raises:
        ConfigError: If the timeline lacks the measure.
    """
    if name not in timeline or "evidence" not in timeline[name].dims:
        raise ConfigError(f"no '{name}' by evidence in this Timeline: trace the measure 'latent_use' first")
    parts = [
        dated_effects(timeline.sel(evidence=what, drop=True), name, least, "positive", level, lasts=lasts)
        for what, least in (("read", least_read), ("used", least_used))
    ]
    joined = xr.concat(parts, xr.DataArray(["read", "used"], dims="what", name="what"), combine_attrs="drop")
    return joined.assign_attrs(level=level, lasts=lasts, least_read=least_read, least_used=least_used)


def latent_line(dates: xr.Dataset, latent: str, layer: int) -> str:
    """One latent at one layer in words.

    Args:
        dates: From `read_and_used`.
        latent: Its name.
        layer: The layer after which it is probed.

    Returns:
        For example `previous token after layer 0: can be read from step 40, used from step 120`. An erasure that takes
        more than half of a site destroys it as random directions do, so that no use can show.
    """
    at = dates.isel(layer=layer).sel(latent=latent)
    phrases = [_phrase(at.sel(what=what), word) for what, word in (("read", "can be read"), ("used", "used"))]
    return f"{words(latent)} after layer {layer}: {', '.join(phrases)}"


def _phrase(at: xr.Dataset, word: str) -> str:
    if not bool(at["selected"]) or bool(at["censored"]):
        return "no use shown" if word == "used" else "cannot be read"
    left = f" until {float(at['left']):g}" if bool(at["transient"]) else ""
    return f"{word} from step {float(at['step']):g}{left}"

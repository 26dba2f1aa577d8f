"""`mechinterp patch` and `mechinterp estimate`: effects of nodes or edges, exact and by gradient."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechinterp.cli.options import Chosen
from mechinterp.cli.output import CommandOutput

if TYPE_CHECKING:
    import xarray as xr

Top = Annotated[int, typer.Option("--top", min=1, help="Rows of the table, the largest effects first.")]
Out = Annotated[str, typer.Option("--out", help="File for the effect on every example, as netCDF (FILE.nc).")]


def patch(
    chosen: Chosen,
    edges: Annotated[bool, typer.Option("--edges", help="Patch every edge instead of nodes.")] = False,
    edge: Annotated[
        list[str] | None,
        typer.Option(
            "--edge",
            help="Patch this edge, as 'L0.H1->L1.H0.k', all edges into this reader, as 'L1.H0.k', or those of this "
            "circuit (FILE.json); give the option once for each.",
        ),
    ] = None,
    largest: Annotated[
        str,
        typer.Option("--largest", help="Patch the largest edges of an estimate: FILE.nc:COUNT, or FILE.nc for all."),
    ] = "",
    top: Top = 20,
    out: Out = "",
) -> CommandOutput:
    """Measure the exact effect of every node of a site, or of edges."""
    from mechinterp.patching import patch_edges, patch_nodes

    if edges or edge or largest:
        which = _of_estimate(largest) if largest else {"edges": _named(edge or [])}
        effects = chosen.call("edges", patch_edges, chosen.model, chosen.pair, **which)
    else:
        effects = chosen.call("nodes", patch_nodes, chosen.model, chosen.pair)
    return _output(effects, chosen, top, out)


def estimate(
    chosen: Chosen,
    edges: Annotated[bool, typer.Option("--edges", help="Estimate every edge instead of nodes.")] = False,
    method: Annotated[
        str | None,
        typer.Option("--method", help="For edges: eap, eap-ig, eap-ig-activations or clean-corrupted (eap-ig)."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="For eap-ig and eap-ig-activations: points of the path (10).")
    ] = None,
    verify: Annotated[
        int | None, typer.Option("--verify", help="For edges: measure so many of the largest exactly too (0).")
    ] = None,
    top: Top = 20,
    out: Out = "",
) -> CommandOutput:
    """Estimate the effect of every node of a site, or of every edge, by gradient."""
    from mechinterp.core import ConfigError, in_words
    from mechinterp.patching import estimate_edges, estimate_nodes

    for_edges = {"--method": method, "--steps": steps, "--verify": verify}
    flags = [flag for flag, value in for_edges.items() if value is not None]
    if flags and not edges:
        raise ConfigError(f"{in_words(flags, 'and')}: only for edges; add --edges")
    if edges:
        what = "estimated edges"
        effects = chosen.call(
            what, estimate_edges, chosen.model, chosen.pair, method=method, steps=steps, verify=verify
        )
    else:
        effects = chosen.call("estimated nodes", estimate_nodes, chosen.model, chosen.pair)
    return _output(effects, chosen, top, out)


def _named(edges: list[str]) -> list[str] | None:
    """Edges and readers, circuits read from their files; None for every edge."""
    from mechinterp.core import Circuit

    files = {name: Circuit.from_file(name) for name in edges if name.endswith(".json")}
    named = [str(edge) for name in edges for edge in (files.get(name) or [name])]
    return named or None


def _of_estimate(text: str) -> dict[str, object]:
    """The arguments of `patch_edges` for the largest edges of an estimate in a file."""
    import xarray as xr

    from mechinterp.core import ConfigError

    file, _, count = text.rpartition(":") if not text.endswith(".nc") else (text, "", "")
    if not file.endswith(".nc") or (count and not count.isdecimal()):
        raise ConfigError(
            f"--largest {text}: write FILE.nc:COUNT, with the file that `mechinterp estimate --out` wrote"
        )
    if not Path(file).exists():
        raise ConfigError(f"no estimate at {file}: `mechinterp estimate RUN --edges --out {file}` writes one")
    return {"edges": xr.load_dataset(file), "top": int(count) if count else None}


def _output(effects: xr.Dataset, chosen: Chosen, top: int, out: str) -> CommandOutput:
    """Effects as means over examples; all examples go to a file if one is named."""
    from mechinterp.core import recovery
    from mechinterp.training.files import write_atomic

    if out:
        write_atomic(Path(out), bytes(effects.to_netcdf(engine="scipy")))
    share, attrs, origin = recovery(effects), effects.attrs, chosen.origin
    rows = list(_rows(effects, share["recovery"]))
    gap = {name: share[name] for name in ("gap", "gap_low", "gap_high", "valid")}
    dims = [str(dim) for dim in share["recovery"].dims]
    data = {**origin, **attrs, **gap, "dims": dims, "file": out or None, "effects": [row for _, row in rows]}
    notes = [
        f"effect in {attrs['metric']}, {attrs.get('direction', 'noise')}, {attrs['ablation']} ablation, mean of "
        f"{len(chosen.pair)} pairs, 95% interval; positive: keeping the clean value helps",
        f"recovery: effect / gap; {_gap(share)}",
        *_agreement(effects),
        f"{min(top, len(rows))} of {len(rows)} rows" + (f"; all examples in {out}" if out else ""),
    ]
    title = f"Effects in {origin['run']}, step {origin['step']} ({attrs['method']})"
    largest = sorted(rows, key=lambda item: -item[0])[:top]
    return CommandOutput(data, title, [row for _, row in largest], notes)


def _agreement(effects: xr.Dataset) -> list[str]:
    """How an estimate agrees with the exact effects beside it."""
    attrs = effects.attrs
    if "verified" not in attrs:
        return []
    return [
        f"{attrs['verified']} largest edges measured exactly: correlation {attrs['correlation']:.3g}, "
        f"{attrs['sign_agreement']:.0%} of equal sign, largest deviation {attrs['largest_deviation']:.3g}"
    ]


def _gap(share: xr.Dataset) -> str:
    gap, low, high = (float(share[name]) for name in ("gap", "gap_low", "gap_high"))
    text = f"gap between clean and corrupted run {gap:.3g} ({low:.3g} to {high:.3g})"
    return text if share["valid"] else f"{text}, not clearly different from zero: no recovery"


def _rows(effects: xr.Dataset, share: xr.DataArray) -> Iterator[tuple[float, dict[str, object]]]:
    """For each node or edge the size of its mean effect (-1 where it has none), and its row."""
    import numpy as np

    from mechinterp.core.statistics import mean_interval

    values = effects["effect"].transpose(*share.dims, "example").values
    for index in np.ndindex(*share.shape):
        place = {str(dim): effects[dim].values[at].item() for dim, at in zip(share.dims, index, strict=True)}
        mean = mean_interval(values[index])
        numbers = {"effect": mean.value, "low": mean.low, "high": mean.high, "recovery": float(share.values[index])}
        unseen = "visible" in effects and not effects["visible"].values[index].all()
        note = {"note": "not seen: equal in both runs" if unseen else ""} if "visible" in effects else {}
        if "exact" in effects:
            numbers["exact"] = float(effects["exact"].values[index].mean())
        yield -1.0 if np.isnan(mean.value) else abs(mean.value), {**place, **numbers, **note}

"""What the dates of many Runs say: one function for each view, and why a view is absent where the Runs are too few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mechinterp.core.statistics import (
    FEWEST_SEEDS,
    binomial_limits,
    false_discovery,
    holm,
    kaplan_meier,
    order_test,
    seed_interval,
    too_few,
    variance_components,
    variance_over_seeds,
)
from mechinterp.curves import Ordering, mirage_check, which_first
from mechinterp.studies.dates import Dates
from mechinterp.studies.declaration import Declaration
from mechinterp.studies.part import Finding, Part, row, words

DATE, ORDER = "dates, all independent runs", "order, all independent runs"
ABSENT = "absent"
_LEVELS = 4


def passages(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """When each quantity passed, in how many Runs it came, and between which steps half of the Runs did."""
    data, rows = {}, []
    for name, one in dates.items():
        seeds = {"seed": ("run", list(one.weights)), "data_seed": ("run", list(one.data))}
        data |= {f"dates-{name}": one.passages.assign(seeds)}
        data |= {f"series-{name}": one.series.to_dataset(name="value").assign(seeds)}
        rows += [_date_row(one), _came_row(one)]
    return Part(data, rows, "formed")


def survival(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """The share of Runs that still wait, at each step."""
    data, rows = {}, []
    for name, one in dates.items():
        title = f"{words(name)}: middle half of the dates"
        if reason := too_few(len(one.independent), "a survival curve"):
            rows.append(row(title, ABSENT, where=DATE, note=f"{_sentence(reason)}.", n=_runs(one)))
            continue
        curve = _curve(one)
        data[f"survival-{name}"] = curve
        quarter, three = (_quantile(curve["waiting"], share) for share in (0.75, 0.25))
        value = f"{_step(quarter)} to {_step(three)}"
        note = "A quarter and three quarters of the runs are there (Kaplan-Meier)."
        rows += [row(title, value, None, None, "steps", DATE, note, n=_runs(one)), _spread_row(one)]
    return Part(data, rows, "variation")


def susceptibility(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """Variance over seeds at each step, and its peak."""
    data, rows = {}, []
    for name, one in dates.items():
        title = f"{words(name)} varies most over seeds"
        whole = one.series.isel(run=one.independent).dropna("step")
        reason = too_few(len(one.independent), "a variance")
        if not reason and not whole.sizes["step"]:
            reason = "no step was measured in all runs"
        if reason:
            rows.append(row(title, ABSENT, where=DATE, note=f"{_sentence(reason)}.", n=_runs(one)))
            continue
        spread = variance_over_seeds(whole)
        data[f"susceptibility-{name}"] = spread
        peak, low, high = (spread.attrs[key] for key in ("peak", "peak_low", "peak_high"))
        top = spread.sel(step=peak) if np.isfinite(peak) else None
        note = "It does not vary."
        if top is not None:
            note = f"Variance there {float(top['variance']):.2g} ({float(top['low']):.2g} to {float(top['high']):.2g})."
            if spread.attrs["peak_inside"] < 0.95:
                note += " The peak may lie at the first or the last step: it was not seen to pass."
        rows.append(row(title, peak, (low, high), None, "steps", DATE, note, n=_runs(one)))
    return Part(data, rows, "variation")


def components(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """How much of the variance of ln t comes with the weights, with the data, and with both together."""
    if not declaration.crossed:
        return Part()
    data, rows = {}, []
    for name, one in dates.items():
        table = one.table
        reason = "" if table.size >= FEWEST_SEEDS else f"variances need {FEWEST_SEEDS} runs, and there are {table.size}"
        if min(table.shape) < _LEVELS:
            reason = f"each factor needs {_LEVELS} seeds, and one has {min(table.shape)}"
        if not reason and float(np.nanmin(table.values, initial=np.inf)) <= 0:
            reason = "a date at step 0 has no logarithm"
        if reason:
            title = f"{words(name)}: variance of ln t by seed"
            rows.append(row(title, ABSENT, where=DATE, note=f"{_sentence(reason)}.", n=f"{table.size} runs"))
            continue
        split = variance_components(table)
        data[f"components-{name}"] = split
        for source, label in (("weights", "initial weights"), ("data", "order of the data"), ("rest", "both together")):
            title = f"{words(name)}: variance of ln t from {label}"
            rows.append(_component_row(title, split.sel(source=source), declaration.level))
    return Part(data, rows, "variation")


def orders(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """Which quantity comes first, by exact sign tests over independent Runs; p-values pay for their number."""
    tests, details = {}, {}
    for one in declaration.orders:
        first, second = dates[one.first], dates[one.second]
        each = [which_first(first.passages.isel(run=run), second.passages.isel(run=run)) for run in first.independent]
        alternative = "less" if one.expected == "first" else "two-sided"
        name = f"{words(one.first)} before {words(one.second)}"
        tests[name] = order_test([ordering.order for ordering in each], alternative=alternative)
        details[name] = _details(each)
    single = {name: test.p for name, test in tests.items()}
    if declaration.adjust == "holm":
        adjusted = holm(single)
    else:
        values = false_discovery(np.array(list(single.values())))
        adjusted = dict(zip(single, map(float, values), strict=True))
    rows = []
    for name, test in tests.items():
        p = adjusted[name]
        value = "yes" if p <= declaration.level and test.wins > test.losses else "not shown"
        if p <= declaration.level and test.losses > test.wins:
            value = "the other way round"
        how = "Holm" if declaration.adjust == "holm" else "false discovery rate"
        note = f"{_sentence(str(test))}; {how} over {len(tests)}: {p:.3g}. It counts where it holds at every threshold."
        note += details[name]
        rows.append(row(name, value, None, None, "", ORDER, note, n=f"{test.wins + test.losses + test.ties} runs"))
    return Part(rows=rows, topic="order")


def transitions(declaration: Declaration, dates: Mapping[str, Dates]) -> Part:
    """In how many Runs a behaviour is a transition on every continuous yardstick, and in how many a mirage."""
    rows = []
    for one in declaration.transitions:
        quantities = {name: declaration.quantities[name] for name in one.yardsticks}
        jumps = {name: one.jump * abs(part.best - part.chance) for name, part in quantities.items()}
        runs = dates[one.yardsticks[0]].independent
        verdicts = []
        for run in runs:
            series = {name: dates[name].series.isel(run=run).dropna("step") for name in one.yardsticks}
            verdicts.append(mirage_check(series, jumps, one.stepwise).verdict)
        counts = {name: verdicts.count(name) for name in ("transition", "mixed", "mirage", "no transition")}
        ends = binomial_limits(counts["transition"], len(runs))
        note = ", ".join(f"{name} {count}" for name, count in counts.items()) + f", of {len(runs)} runs; "
        note += f"yardsticks: {', '.join(map(words, one.yardsticks))}."
        title = f"{words(one.name)} is a transition on every continuous yardstick"
        share, outcome = counts["transition"] / len(runs), "found" if counts["transition"] else "not found"
        rows.append(row(title, share, ends, None, "%", DATE, note, n=f"{len(runs)} runs", outcome=outcome))
    return Part(rows=rows, topic="formed")


def _date_row(one: Dates) -> Finding:
    at = one.at.isel(run=one.independent)
    steps, name = at["step"].values, f"{words(one.name)} passes {one.threshold:g} of its range"
    came = int(np.isfinite(steps).sum())
    note = f"It came in {came} of {len(steps)} independent runs."
    if transient := int(at["transient"].sum()):
        note += f" In {transient} it was lost again."
    if came == len(steps) and (steps > 0).all():
        date = seed_interval(steps)
        note += " Geometric mean over seeds, t-interval on ln t."
        return row(name, date.step, (date.low, date.high), None, "steps", DATE, note, n=_runs(one), outcome="found")
    curve = _curve(one)
    median = curve.attrs["median"]
    note += " Median, runs that never got there counted for as long as they were watched."
    if not np.isfinite(median):
        return row(name, "not in half of the runs", where=DATE, note=note, n=_runs(one), outcome="not found")
    ends = (_quantile(curve["low"], 0.5), _quantile(curve["high"], 0.5))
    return row(name, median, ends, None, "steps", DATE, note, n=_runs(one), outcome="found")


def _came_row(one: Dates) -> Finding:
    steps = one.at["step"].values[one.independent]
    came = int(np.isfinite(steps).sum())
    note = f"{came} of {len(steps)} independent runs; Clopper-Pearson."
    name = f"{words(one.name)} came at all"
    share, ends, outcome = came / len(steps), binomial_limits(came, len(steps)), "found" if came else "not found"
    return row(name, share, ends, None, "%", DATE, note, n=_runs(one), outcome=outcome)


def _details(each: Sequence[Ordering]) -> str:
    """Why Runs have no order, and what each threshold alone says; it describes, and tests nothing."""
    whole = [one.order for one in each]
    without = [f"{name} {whole.count(name)}" for name in ("tie", "mixed", "undecided") if name in whole]
    text = f" Without an order: {', '.join(without)}." if without else ""
    alone = []
    for threshold in each[0].by_threshold:
        here = [one.by_threshold[threshold] for one in each]
        counts = "/".join(str(here.count(name)) for name in ("first", "tie", "second"))
        alone.append(f"{threshold:g}: {counts}")
    return f"{text} Earlier/tied/later at each threshold alone: {', '.join(alone)}."


def _spread_row(one: Dates) -> Finding:
    """Standard deviation of ln t over Runs, where all of them got there."""
    steps = one.at["step"].values[one.independent]
    title = f"{words(one.name)}: deviation of ln t"
    if not (steps > 0).all():  # also where one is NaN
        note = "Not every run got there after step 0, so that it is not known."
        return row(title, ABSENT, where=DATE, note=note, n=_runs(one))
    log = xr.DataArray(np.log(steps)[:, None], dims=("run", "step"), coords={"step": [0]})
    spread = np.sqrt([float(variance_over_seeds(log)[key][0]) for key in ("variance", "low", "high")])
    return row(title, spread[0], (spread[1], spread[2]), None, "", DATE, "Bonett's interval.", n=_runs(one))


def _curve(one: Dates) -> xr.Dataset:
    """Survival; a Run is watched as long as a passage could still last: one that passed later tells nothing of itself.

    Censoring it where it passed would depend on the date itself, and survival curves must not.
    """
    at, series = (part.isel(run=one.independent) for part in (one.at, one.series))
    last = series["step"].where(series.notnull()).max("step").values
    watched = np.minimum(at["clear"].values, last * np.exp(-one.passages.attrs["lasts"]))
    return kaplan_meier(at["step"].values, np.maximum(watched, 0))


def _quantile(waiting: xr.DataArray, share: float) -> float:
    """The first step at which at most this share waits; infinite if that never came."""
    below = waiting["step"].values[waiting.values <= share + 1e-12]
    return float(below[0]) if len(below) else float("inf")


def _runs(one: Dates) -> str:
    return f"{len(one.independent)} runs"


def _component_row(title: str, split: xr.Dataset, level: float) -> Finding:
    p, n = float(split["p_value"]), f"{split.attrs['runs']} runs"
    test = f" p = {p:.3g} (permutation) that it makes no difference." if np.isfinite(p) else ""
    if reason := split.attrs["reason"]:
        note = f"{_sentence(reason)}.{test}" + (" The test is of ranks." if test else "")
        return row(title, ABSENT, where=DATE, note=note, n=n)
    ends = float(split["share_low"]), float(split["share_high"])
    note = f"Variance {float(split['variance']):.3g}, {split.attrs['runs']} crossed runs.{test}"
    outcome = ("found" if p <= level else "not found") if np.isfinite(p) else None
    return row(title, float(split["share"]), ends, None, "%", DATE, note, n=n, outcome=outcome)


def _step(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else "never"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"

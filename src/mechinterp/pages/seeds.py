"""The page of a declared study: what many Runs agree on, and what was declared before they ran."""

from __future__ import annotations

from mechinterp import plots
from mechinterp.core.statistics import too_few
from mechinterp.pages.page import Body, Figure, Section
from mechinterp.pages.sections import in_sentences
from mechinterp.plots.tables import finding_cells
from mechinterp.studies import SeedStudy, account

_LEAD = "Each number with its 95% interval over independent runs; what needs more runs than there are says so."


def seed_sections(study: SeedStudy) -> list[Section]:
    """All sections, in reading order."""
    rows = [(finding_cells(row), row["note"]) for row in study.findings]
    return [
        Section("numbers", "The numbers", Body(_LEAD, rows=rows)),
        Section("survival", "When it came, over seeds", survival(study)),
        Section("susceptibility", "When runs differ most", susceptibility(study)),
        Section("account", "The account", in_sentences(account(study))),
        Section("declaration", "What was declared", declaration(study)),
    ]


def survival(study: SeedStudy) -> Body:
    """The share of runs that still wait."""
    curves = _parts(study, "survival-")
    if not curves:
        return Body(notes=[_absent(study, "a survival curve")])
    figure = Figure(
        "survival-plot",
        plots.survival(curves),
        "A curve falls by one run at each date. Runs that never got there count for as long as they were watched. The "
        "band is a 95% interval at each step by itself, not of the whole curve.",
        f"Share of runs that still wait at each step, for {', '.join(curves)}.",
    )
    return Body("How many runs have not got there yet.", [figure])


def susceptibility(study: SeedStudy) -> Body:
    """Variance over seeds at each step."""
    spreads = _parts(study, "susceptibility-")
    if not spreads:
        return Body(notes=[_absent(study, "a variance")])
    figure = Figure(
        "susceptibility-plot",
        plots.susceptibility(spreads),
        "Each curve over its own largest value. Where a measure jumps at another step in each run, its variance peaks "
        "where half of the runs have jumped.",
        f"Variance over seeds at each step, for {', '.join(spreads)}.",
    )
    return Body("The variance over seeds at each step.", [figure])


def declaration(study: SeedStudy) -> Body:
    """The declaration and the hash of its file."""
    tables: dict[str, dict[str, str]] = {"Study": {"SHA-256 of the file": study.sha256}}
    for name, value in study.settings.items():
        if isinstance(value, dict):
            tables[name.capitalize()] = {str(key): str(item) for key, item in value.items()}
        elif value not in (None, [], ""):
            tables["Study"][name.replace("_", " ")] = str(value)
    return Body("Written down before the first run began; a file that was changed since is refused.", settings=tables)


def _parts(study: SeedStudy, prefix: str) -> dict:
    return {name.removeprefix(prefix): part for name, part in study.parts.items() if name.startswith(prefix)}


def _absent(study: SeedStudy, what: str) -> str:
    runs = {part.sizes["run"] for name, part in study.parts.items() if name.startswith("dates-")}
    return f"Absent: {too_few(min(runs, default=0), what) or 'too few of the runs are independent'}."

"""A declared study: train every seed, trace, date, and test what was expected, with what the seeds do not agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import xarray as xr

from mechinterp.core import RunError
from mechinterp.core.digest import digest
from mechinterp.core.memo import remembering
from mechinterp.core.progress import Bars, Progress
from mechinterp.studies import seed_findings
from mechinterp.studies.dates import Dates, dates_of
from mechinterp.studies.declaration import DeclaredFile
from mechinterp.studies.part import Finding, Part
from mechinterp.studies.records import record_of_jobs
from mechinterp.studies.seed_jobs import timeline_of, train_and_trace
from mechinterp.studies.shelf import alone, load_study, save_study, subject_of

VIEWS = (
    seed_findings.passages,
    seed_findings.survival,
    seed_findings.susceptibility,
    seed_findings.components,
    seed_findings.orders,
    seed_findings.transitions,
)


@dataclass(frozen=True, eq=False)
class SeedStudy:
    """The results of a declared study.

    Args:
        verdict: The outcome in a sentence or two.
        findings: Rows, as in `Study`.
        parts: Name -> labelled numbers: `dates-NAME` (run, threshold), `series-NAME` (run, step), `survival-NAME`,
            `susceptibility-NAME` (step), `components-NAME` (source); what is absent says why among the findings.
        settings: The declaration as plain data.
        sha256: Of the file that declared it before it ran.
        record: What the Runs are, as in `Study`.
    """

    verdict: str
    findings: list[Finding]
    parts: Mapping[str, xr.Dataset]
    settings: Mapping[str, object]
    sha256: str
    record: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.verdict


def declared_study(path: str | Path, *, workers: int | None = None, progress: bool | Progress = False) -> SeedStudy:
    """Run what a file declares: train and trace every seed, date the quantities, test the orders.

    A copy of the file lies in the folder `out` before the first Run begins. A study that is interrupted goes on where
    it stopped; a finished one of the same file and weights is loaded.

    Args:
        path: A TOML file, see `Declaration`.
        workers: Processes, each for one Run at a time; None for one per core, 1 for this process.
        progress: True for bars, or a function called with (what, done, total).

    Raises:
        ConfigError: If the file cannot be read, or something in it has no meaning.
        RunError: If the folder belongs to another declaration, even to this file before it was changed, or Runs failed.
    """
    declared = DeclaredFile.read(path)
    folder, jobs = Path(declared.content.out), declared.content.jobs()
    with alone(folder), Bars(progress) as show:
        declared.settle(folder)
        runs = train_and_trace(declared.content, jobs, workers, show)
        subject = digest([declared.sha256, [subject_of(run) for run in runs]])
        with suppress(RunError):  # there is none yet, or it is of other weights
            file, parts = load_study(folder, subject)
            return SeedStudy(file.verdict, file.findings, parts, file.settings, file.declaration, file.record)
        weights = [job.seed for job in jobs]
        data = [job.seed if job.training.data_seed is None else job.training.data_seed for job in jobs]
        with remembering("draws"):  # all Runs are measured on the same examples
            timelines = [timeline_of(run, declared.content) for run in runs]
        dates = dates_of(declared.content, timelines, weights, data)
        result = over_seeds(declared, dates)
        told = (result.verdict, result.findings, result.parts, result.settings, result.record)
        save_study(folder, subject, *told, declared.sha256)
    return result


def over_seeds(declared: DeclaredFile, dates: Mapping[str, Dates]) -> SeedStudy:
    """What the dates of all Runs say: every finding of a declared study.

    Args:
        declared: What was declared.
        dates: Quantity -> its dates.
    """
    parts: list[Part] = [write(declared.content, dates) for write in VIEWS]
    findings = [row for part in parts for row in part.findings]
    data = {name: one for part in parts for name, one in part.data.items()}
    settings = declared.content.model_dump(mode="json")
    measures = {name: dict(one.to_measure().params) for name, one in declared.content.quantities.items()}
    record = {**record_of_jobs(declared.content.jobs()), "measures": measures}
    return SeedStudy(_verdict(declared, findings), findings, data, settings, declared.sha256, record)


def _verdict(declared: DeclaredFile, findings: Sequence[Finding]) -> str:
    dated = [f"{row['name']}: {row['value']}" for row in findings if row["where"] == seed_findings.ORDER]
    dated = dated or [f"{row['name']}: {row['note']}" for row in findings if row["where"] == seed_findings.DATE]
    return f"{'; '.join(dated)}. Declared in {declared.path.name}, SHA-256 {declared.sha256}."

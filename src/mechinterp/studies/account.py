"""`account`: what formed when, in which order, what made it form, with what evidence, and what was not found.

Sentences are made of the findings and of nothing else: each has its number, its interval, its null, over how many it is
taken, and at which step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mechinterp.core import ConfigError
from mechinterp.core.statistics import holm
from mechinterp.plots.tables import finding_cells
from mechinterp.studies.methods import methods_of_seeds, methods_of_study, methods_of_twins
from mechinterp.studies.over_seeds import SeedStudy
from mechinterp.studies.part import Finding, FindingOutcome, Part, Topic, row
from mechinterp.studies.study import Study
from mechinterp.studies.twins import ARMS, Twins
from mechinterp.training import Run

Told = tuple[str, Finding]
"""A finding, and which of several results it is from."""
Accountable = Run | Study | SeedStudy | Twins
TWINS_LEVEL = 0.05
"""Of the sign tests of twins, over all their dates."""

_HEADINGS: dict[Topic, str] = {
    "formed": "What formed, and when",
    "order": "In which order",
    "cause": "What made it form",
    "evidence": "With what evidence",
    "variation": "How dates vary over seeds",
}
_NOT_FOUND, _UNTESTED, METHODS_HEADING = "Tested, and not found or not decided", "Not tested, and why", "Methods"


@dataclass(frozen=True)
class Account:
    """Findings and methods in sentences.

    Args:
        title: What it is about.
        sections: Heading -> sentences; `Methods` is one paragraph, the last.
    """

    title: str
    sections: Mapping[str, Sequence[str]]

    @property
    def methods(self) -> str:
        """The paragraph for a paper."""
        return " ".join(self.sections[METHODS_HEADING])

    @property
    def text(self) -> str:
        """All of it as plain text."""
        return self._written("{}", "{}", "- {}")

    @property
    def markdown(self) -> str:
        """All of it as markdown."""
        return self._written("# {}", "## {}", "- {}")

    def _written(self, title: str, heading: str, sentence: str) -> str:
        blocks = [title.format(self.title)]
        for name, sentences in self.sections.items():
            body = self.methods if name == METHODS_HEADING else "\n".join(sentence.format(one) for one in sentences)
            blocks += [heading.format(name), body]
        return "\n\n".join(blocks) + "\n"

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __str__(self) -> str:
        return self.text


def account(*results: Accountable) -> Account:
    """What formed when, in which order, what made it form, with what evidence, what was not found; and the methods.

    Args:
        *results: Studies of one Run each (a Run stands for the study in its folder), studies over seeds, twins. Twins
            say what made something form; without them that section says that nothing was tested.

    Returns:
        One section for each of these questions; a test that fell short of its null, or of its level, stands among what
        was not found, and what there were too few runs for stands among what was not tested.

    Raises:
        ConfigError: If there is nothing to give account of.
        RunError: If a Run's folder holds no study of its weights.
    """
    if not results:
        raise ConfigError("an account is of at least one result: a Run with a study, a study over seeds, or twins")
    stories = [Study.load(one) if isinstance(one, Run) else one for one in results]
    told = [(_label(one) if len(stories) > 1 else "", one) for one in stories]
    rows = [(label, finding) for label, one in told for finding in _findings(one)]
    sections: dict[str, Sequence[str]] = {}
    for topic, heading in _HEADINGS.items():
        here = [one for one in rows if one[1]["topic"] == topic]
        if here or topic != "variation":
            sections[heading] = _section(topic, here)
    short = [one for one in rows if one[1]["outcome"] == "not found"]
    none = f"0 of {len(rows)} findings fell short of their null or level."
    sections[_NOT_FOUND] = _sentences(short) or [none]
    if untested := _sentences([one for one in rows if one[1]["outcome"] == "not tested"]):
        sections[_UNTESTED] = untested
    sections[METHODS_HEADING] = [sentence for label, one in told for sentence in _methods(label, one)]
    return Account(f"Account of {', '.join(_label(one) for one in stories)}", sections)


def _section(topic: Topic, rows: Sequence[Told]) -> list[str]:
    """The sentences on what was found; where nothing was, how many tests there were."""
    told = [one for one in rows if one[1]["outcome"] in ("found", "measured")]
    tests = sum(one[1]["outcome"] in ("found", "not found") for one in rows)
    if topic == "formed":  # by date; what has none comes after
        told = sorted(told, key=lambda one: _date(one[1]))
    lead = [] if any(one[1]["outcome"] == "found" for one in rows) else [f"Nothing was found: 0 of {tests} tests."]
    if topic == "cause" and not rows:
        lead = ["No twins were given: 0 interventions in training were tested."]
    return [*lead, *_sentences(told)]


def _date(finding: Finding) -> float:
    """The step that a finding is; infinite for another number."""
    value = finding["value"]
    return float(value) if finding["unit"] == "steps" and isinstance(value, int | float) else np.inf


def _sentences(rows: Sequence[Told]) -> list[str]:
    """Each finding in a sentence; a note that the one before has too is not repeated."""
    notes = ["", *(finding["note"] for _, finding in rows)]
    return [
        _sentence(label, finding) + (f" {_capital(note)}" if note and note != before else "")
        for (label, finding), before, note in zip(rows, notes, notes[1:], strict=False)
    ]


def _sentence(label: str, finding: Finding) -> str:
    """Number, interval, null, how many, where."""
    name, value, interval, null = finding_cells(finding)
    if np.isfinite(_date(finding)):
        value, interval = f"step {value.removesuffix(' steps')}", interval.removesuffix(" steps")
    numeric = not isinstance(finding["value"], str | None)
    about = [f"95% interval {interval}" if interval else "no interval" if numeric else ""]
    worded = isinstance(finding["null"], str)  # such as `of 29 edges`
    about += [null if worded else f"null {null}" if null else "no null" if numeric else ""]
    about += [f"n = {finding['n']}" if finding["n"] else "", finding["where"]]
    inside = "; ".join(part for part in about if part)
    lead = f"{label}: " if label else ""
    return f"{lead}{_capital(name)}: {value}" + (f" ({inside})." if inside else ".")


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _findings(result: Study | SeedStudy | Twins) -> list[Finding]:
    return _shifts(result) if isinstance(result, Twins) else list(result.findings)


def _shifts(twins: Twins) -> list[Finding]:
    """One finding per date of twins: by what factor interventions move it."""
    adjusted = holm({name: shift.test.p for name, shift in twins.shifts.items()})
    rows = []
    for name, shift in twins.shifts.items():
        came = ", ".join("{} in {} of {}".format(arm, *twins.came(name, arm)[:2]) for arm in ARMS)
        note = f"It came: {came}. {_capital(str(shift.test))}; Holm over {len(adjusted)}: {adjusted[name]:.3g}."
        bounds = [f"{end:.3g} or {word}" for end, word, known in (
            (shift.least, "more", shift.least > 0), (shift.most, "less", np.isfinite(shift.most))
        ) if known and shift.complete < shift.pairs]  # fmt: skip
        note += f" Over all pairs the factor is {' and '.join(bounds)}." if bounds else ""
        outcome: FindingOutcome = "found" if adjusted[name] <= TWINS_LEVEL else "not found"
        value = shift.ratio if shift.complete else "no pair in which both came"
        title = f"step of {name} with the interventions, over its step without"
        n = f"{shift.complete} of {shift.pairs} pairs"
        rows.append(row(title, value, (shift.low, shift.high), 1.0, "", "all checkpoints", note, n=n, outcome=outcome))
    return Part(rows=rows, topic="cause").findings


def _methods(label: str, result: Study | SeedStudy | Twins) -> list[str]:
    if isinstance(result, Twins):
        sentences = methods_of_twins(result)
    elif isinstance(result, SeedStudy):
        sentences = methods_of_seeds(result)
    else:
        sentences = methods_of_study(result)
    return [f"{label}: {sentences[0]}", *sentences[1:]] if label and sentences else sentences


def _label(result: Study | SeedStudy | Twins) -> str:
    if isinstance(result, Twins):
        return f"twins on {result.attrs['task']}"
    if isinstance(result, SeedStudy):
        return str(result.settings.get("title") or Path(str(result.settings["out"])).name)
    folder = result.timeline.attrs.get("run")
    return Path(str(folder)).name if folder else "one run"

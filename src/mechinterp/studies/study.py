"""`study`: what a model learns, which heads and edges do it, and when, beside nulls; stored in the Run's folder.

A study is made of parts. To add a result, write one function `(context) -> Part`, add it to `PARTS`, and add a section
to `pages/sections.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import xarray as xr

from mechinterp.attribution import HEAD_TYPES, heads_of_type
from mechinterp.core import OPTIONS, Circuit, ConfigError, RunError, UnsupportedError, suggest
from mechinterp.core.progress import Bars, Progress
from mechinterp.curves import Onset
from mechinterp.models import Transformer
from mechinterp.studies import emergence, evidence, heads, learning
from mechinterp.studies.causal import NO_PAIRS
from mechinterp.studies.over_seeds import SeedStudy, declared_study
from mechinterp.studies.part import Context, Finding, Part, words
from mechinterp.studies.records import record_of
from mechinterp.studies.shelf import alone, load_study, save_study, subject_of
from mechinterp.timeline import Traceable

PARTS: tuple[Callable[[Context], Part], ...] = (
    learning.timeline,
    learning.loss,
    learning.theory,
    heads.heads,
    heads.onsets,
    learning.mirage,
    heads.mirage,
    heads.order,
    emergence.edges,
    emergence.leaders,
    emergence.order_parameters,
    evidence.circuit,
    evidence.probes,
    emergence.latents,
)
"""In the order of their findings; a part may use the data of those before it."""


@dataclass(frozen=True, eq=False)
class Study:
    """The results of `study` for one Run.

    Args:
        verdict: The outcome in a sentence or two.
        findings: Rows with name, value, low, high, null, unit, where and note: the flat table of all numbers.
        parts: Name -> labelled numbers.
        settings: Seed, numbers of examples and nulls, head types: the arguments.
        record: What the Run is: task, model, training, seed, checkpoints, versions; see `record_of`.
    """

    verdict: str
    findings: list[Finding]
    parts: Mapping[str, xr.Dataset]
    settings: Mapping[str, object]
    record: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def load(cls, run: Traceable) -> Study:
        """The study in a Run's folder.

        Raises:
            RunError: If there is none, or one of other weights or another version, or a damaged one.
        """
        file, parts = load_study(run.path, subject_of(run))
        return cls(file.verdict, file.findings, parts, file.settings, file.record)

    def save(self, run: Traceable) -> None:
        """Write it to the Run's folder: `study/*.nc`, then `study.json`, each written whole or not at all."""
        save_study(run.path, subject_of(run), self.verdict, self.findings, self.parts, self.settings, self.record)

    @property
    def timeline(self) -> xr.Dataset:
        """Head scores, loss, accuracy, margin, distances from predictors, effects of edges and nodes, by step."""
        return self.parts.get("timeline", xr.Dataset())

    @property
    def predictors(self) -> dict[str, float]:
        """Reference predictor -> its loss on scored positions."""
        data = self.parts.get("predictors")
        return {} if data is None else {str(one["predictor"].item()): float(one) for one in data["loss"]}

    @property
    def heads(self) -> dict[str, list[str]]:
        """Head type -> heads of the type, the best first."""
        types = self.parts.get("heads")
        return {} if types is None else {name: heads_of_type(types, name) for name in types.attrs["declared"]}

    @property
    def nulls(self) -> dict[str, tuple[float, float]]:
        """Head score -> mean and maximum, over untrained models, of the best head's score."""
        types = self.parts.get("heads")
        nulls = {} if types is None else {str(name): heads.null_of(types, name) for name in types["score"].values}
        return {name: (null.mean, null.largest) for name, null in nulls.items()}

    @property
    def onsets(self) -> dict[str, Onset]:
        """What -> its onset: the best head of each type, and the loss on the task's first group."""
        return heads.unpack_onsets(self.parts["onsets"]) if "onsets" in self.parts else {}

    @property
    def circuit(self) -> Circuit:
        """The circuit at the last step; empty where there is none."""
        return Circuit.from_dict(self.parts["circuit"].attrs["circuit"]) if "circuit" in self.parts else Circuit([])

    @property
    def found(self) -> tuple[str, str]:
        """Whether a circuit is found at the last step (`yes`, `no`, `undecided`), and why."""
        attrs = self.parts["circuit"].attrs if "circuit" in self.parts else {}
        return attrs.get("found", "undecided"), attrs.get("found_reason", NO_PAIRS)

    @property
    def fewest_edges(self) -> int | None:
        """How many edges are taken by rank, before pruning to whole paths; None where there is no circuit."""
        return self.parts["circuit"].attrs["fewest_edges"] if "circuit" in self.parts else None

    @property
    def nodes(self) -> xr.Dataset | None:
        """Effects of heads' outputs by role at the last step, on held-out pairs; None without pairs."""
        return self.parts.get("nodes")

    @property
    def curve(self) -> xr.Dataset | None:
        """Faithfulness by number of edges, on held-out pairs; None without pairs."""
        return self.parts.get("curve")

    @property
    def evaluation(self) -> xr.Dataset | None:
        """The circuit on held-out pairs beside random circuits; None without a circuit."""
        return self.parts.get("evaluation")

    @property
    def probes(self) -> dict[str, xr.Dataset]:
        """Hidden variable -> the result of `probe`."""
        return {n.removeprefix("probe-"): data for n, data in self.parts.items() if n.startswith("probe-")}

    def __str__(self) -> str:
        return self.verdict


@overload
def study(run: str | Path, *, progress: bool | Progress = False) -> SeedStudy: ...


@overload
def study(
    run: Traceable,
    seed: int = 0,
    examples: int = ...,
    untrained: int = ...,
    nulls: int = ...,
    head_types: Sequence[str] = ...,
    progress: bool | Progress = False,
    fresh: bool = False,
) -> Study: ...


def study(
    run: Traceable | str | Path,
    seed: int = 0,
    examples: int = 128,
    untrained: int = OPTIONS["untrained"].default,
    nulls: int = OPTIONS["nulls"].default,
    head_types: Sequence[str] = ("previous_token", "induction"),
    progress: bool | Progress = False,
    fresh: bool = False,
) -> Study | SeedStudy:
    """Trace a Run, name and date its heads, find its circuit and judge it on held-out data, with a null for each.

    Heads are chosen on one batch and scored on another; the circuit is searched on one set of pairs and judged on
    another. Stored measurements are reused; a stored study of these weights with these settings is loaded.

    Args:
        run: A Run of a `Transformer`. Or the path of a TOML file that declares a study over seeds, which sets all but
            `progress` itself: see `declared_study`.
        seed: Of all examples and nulls.
        examples: Pairs for the search, pairs for the judgement, sequences to probe. Timelines take 64 a step.
        untrained: Untrained models, for the null of the heads and for whether a circuit is found.
        nulls: Random circuits.
        head_types: Which types of heads to look for.
        progress: True for bars, or a function called with (what, done, total).
        fresh: Repeat everything but the timeline, whose files record what they depend on.

    Raises:
        UnsupportedError: If the model is not a `Transformer`.
        ConfigError: If there is no such head type.
        RunError: If the Run has no checkpoint.
    """
    if isinstance(run, str | Path):
        return declared_study(run, progress=progress)
    for name in head_types:
        if name not in HEAD_TYPES:
            raise ConfigError(f"no head type '{name}'.{suggest(name, HEAD_TYPES)}")
    settings = {"seed": seed, "examples": examples, "untrained": untrained, "nulls": nulls}
    recorded = {**settings, "head_types": list(head_types)}
    if not fresh:
        with suppress(RunError):  # there is none yet, or it is of other weights
            stored = Study.load(run)
            if stored.settings == recorded:
                return stored
    model = run.model()
    if not isinstance(model, Transformer):
        raise UnsupportedError(f"a study needs a Transformer, not a {type(model).__name__}: use trace and onset")
    data: dict[str, xr.Dataset] = {}
    findings: list[Finding] = []
    with alone(run.path), Bars(progress) as show:
        for part in PARTS:
            context = Context(run, model, run.task, **settings, head_types=head_types, show=show, data=data)
            result = part(context)
            data |= result.data
            findings += result.findings
    result = Study("", findings, data, recorded, record_of(run))
    result = replace(result, verdict=_verdict(result))
    result.save(run)
    return result


def _verdict(study: Study) -> str:
    """The outcome in a sentence or two."""
    name, date = list(study.onsets.items())[-1]
    when = f"{name[0].upper()}{name[1:]}: {date}."
    answer, reason = study.found
    judged = study.evaluation
    size = "" if judged is None else f"{int(judged['live_size'])} of {int(judged['live_edges'])} live edges"
    if answer == "no":
        return f"No circuit is found: {reason}. {when}"
    if judged is None:
        return f"{reason[0].upper()}{reason[1:]}. {when}"
    if answer == "undecided":
        return f"Whether {size} are a circuit is undecided: {reason}. {when}"
    outcome = (
        f"A circuit of {size} recovers {100 * float(judged['faithfulness']):.0f}% of the gap on held-out pairs (random "
        f"circuits of its size: {100 * float(judged['null_faithfulness_p95']):.0f}%)."
    )
    names = [f"{words(head_type)} {group[0]}" for head_type, group in study.heads.items() if group]
    return " ".join([outcome, *([f"Heads: {', '.join(names)}."] if names else []), when])

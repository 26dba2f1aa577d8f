"""The methods' exam: every search for circuits, held against models whose circuit is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from mechinterp.bench.timing import Figures
from mechinterp.core import Batch, Circuit, ConfigError, Edge, Metric, Options, derive_seed
from mechinterp.core.edge_scores import score_every_edge
from mechinterp.core.memo import remembering
from mechinterp.discovery.acdc import HALVINGS, acdc
from mechinterp.discovery.greedy import greedy
from mechinterp.discovery.ranking import RANKINGS, score_edges
from mechinterp.discovery.smallest import smallest_circuit
from mechinterp.discovery.top_k import top_k
from mechinterp.evaluation import edge_auroc, edge_average_precision, group_auroc
from mechinterp.interventions import Judge
from mechinterp.known import KnownModel, known_models, roughened

_NOISE = 1e-4
"""Of the weights, so that no false edge has an effect of exactly zero: the largest power of ten that leaves the gap of
every model within 2%. Compiled programs are the frailest: a thousandth costs `sort` a fifth of its gap."""
_PAIRS = 32
_SHARE = 0.95
"""Of the gap, for the size of circuits."""
_LIMIT = 20_000
"""Circuits that the search for the optimum tries."""
_QUICK = ("induction", "copies")
_MEANING = (
    "least edge AUROC, over all exams, of the best method with one setting; low and high: those of the worst method "
    "and of the best"
)

_Scores = Mapping[Edge, float]


@dataclass(frozen=True, eq=False)
class Exam:
    """One model under one ablation.

    Args:
        model: Name of the model.
        shape: The ablation, or what else is asked.
        judge: Runs circuits on its pairs.
        truth: The edges of its circuit that can be identified here.
        pool: The edges that are scored: those, and all outside the circuit.
        groups: Edges that stand in for each other; empty if none do, or none can be seen.
    """

    model: str
    shape: str
    judge: Judge
    truth: Circuit
    pool: tuple[Edge, ...]
    groups: tuple[Circuit, ...]

    @property
    def name(self) -> str:
        """Model and ablation."""
        return f"{self.model}, {self.shape}"


def exams(names: Sequence[str]) -> list[Exam]:
    """The exams on some known models: resampling and zero ablation, and where edges stand in for each other the groups
    of them, under resampling."""
    rows: list[Exam] = []
    for name in names:
        made = known_models()[name].build(inert_heads=1)
        known = roughened(made, _NOISE, derive_seed(0, "bench", "discovery", name))
        pair = known.pair(_PAIRS, 1)
        for ablation in ("resample", "zero"):
            metric: str | Metric = toward_right if known.metric == "mse" else known.metric
            judge = Judge(known.model, pair, Options(metric=metric, ablation=ablation, inputs=known.circuit.inputs))
            truth, false = known.seen(ablation), [e for e in judge.graph.edges if e not in known.circuit]
            rows.append(Exam(name, ablation, judge, truth, (*truth, *false), ()))
            groups = _seen_groups(known) if ablation == "resample" else ()
            if groups:
                members = [edge for group in groups for edge in group]
                whole = Circuit(members, known.circuit.inputs)
                rows.append(Exam(name, "groups", judge, whole, (*members, *false), groups))
    return rows


def _seen_groups(known: KnownModel) -> tuple[Circuit, ...]:
    """Groups with a member that shows in one direction at least."""
    shown = known.seen("resample") | known.seen("resample", direction="denoise")
    return tuple(group for group in known.groups if len(group & shown))


def _acdc(judge: Judge) -> _Scores:
    """The largest threshold, of halves of the gap, at which ACDC keeps an edge."""
    scores: dict[Edge, float] = dict.fromkeys(judge.graph.edges, 0.0)
    for halvings in range(HALVINGS, 0, -1):
        threshold = max(judge.scale, np.finfo(float).tiny) / 2**halvings
        scores.update({edge: threshold for edge in acdc(judge, threshold).edges})
    return scores


def _greedy(two_sided: bool) -> Callable[[Judge], _Scores]:
    """The loss that had to be allowed before greedy removal let go of an edge."""

    def scores(judge: Judge) -> _Scores:
        history = greedy({"": judge}, k=0, two_sided=two_sided)
        return dict(zip(history.removed, np.maximum.accumulate(history.losses).tolist(), strict=True))

    return scores


def _ranked(method: str) -> Callable[[Judge], _Scores]:
    def scores(judge: Judge) -> _Scores:
        values = score_edges(judge, method)
        means = values.mean("example") if "example" in values.dims else values
        # Gates have log odds; of effects the size counts.
        sizes = means.copy(data=expit(means.values)) if method == "edge-pruning" else abs(means)
        return score_every_edge(sizes, judge.graph)

    return scores


EXAMINED: Mapping[str, Callable[[Judge], _Scores]] = {
    **{name: _ranked(name) for name in RANKINGS},
    "acdc": _acdc,
    "greedy": _greedy(two_sided=False),
    "greedy, two-sided": _greedy(two_sided=True),
}


def discovery(quick: bool = False) -> Figures:
    """Every method on every known model.

    Noise on all weights gives every false edge a small effect. An exam scores the edges that can be identified by
    construction against those outside the circuit; where edges stand in for each other a group counts by its best
    member. Values are scored by how far they lie from the wrong to the right answer: squared distance has no gradient
    where the answer is exact.

    Args:
        quick: Two models, to see that it runs.

    Returns:
        `best`: the method of the highest `auroc` (its least over exams), which is also `ratio`, and of those equal the
        one with the highest `exact_recovery`: the share of exams in which the edges above a threshold are just the true
        ones, where the threshold is halfway (in the logarithm) between the largest score of a false edge and the least
        of a true one in the exams of all other models. `sizes` has a row for each method, `exams` one for each method
        and exam.
    """
    chosen = exams(_QUICK if quick else tuple(known_models()))
    optima = {exam.name: _optimum(exam) for exam in chosen}
    answers = [_answer(name, exam, optima[exam.name]) for name in EXAMINED for exam in chosen]
    rows = [_row(name, [one for one in answers if one.method == name]) for name in EXAMINED]
    best = max(rows, key=lambda row: (row["auroc"], row["exact_recovery"], row["average_precision"]))
    return {
        "name": "discovery",
        "ratio": best["auroc"],
        "low": min(row["auroc"] for row in rows),
        "high": max(row["auroc"] for row in rows),
        "meaning": _MEANING,
        "target": 1.0,
        "best": best["size"],
        "auroc": best["auroc"],
        "exact_recovery": best["exact_recovery"],
        "sizes": rows,
        "exams": [one.figures() for one in answers],
    }


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a method said in an exam.

    Args:
        method: The method.
        exam: The exam.
        true: The least score of a true edge (or of a group's best edge), as a share of the largest score.
        false: The largest score of a false edge, likewise.
        auroc: Of true edges, or groups, against false ones.
        average_precision: Likewise; None for groups.
        excess: Edges that its smallest circuit with 95% of the gap has beyond the optimum; None where that is unknown.
        seconds: Processor time.
    """

    method: str
    exam: Exam
    true: float
    false: float
    auroc: float
    average_precision: float | None
    excess: int | None
    seconds: float

    def figures(self) -> Figures:
        numbers = ("true", "false", "auroc", "average_precision", "excess", "seconds")
        return {"method": self.method, "exam": self.exam.name, **{name: getattr(self, name) for name in numbers}}


def _answer(method: str, exam: Exam, optimum: int | None) -> _Answer:
    begin = time.process_time()
    with remembering("runs"):
        scores = EXAMINED[method](exam.judge)
    seconds = time.process_time() - begin
    pool = {edge: scores[edge] for edge in exam.pool}
    largest = max(max(pool.values()), np.finfo(float).tiny)
    units = [list(group) for group in exam.groups] or [[edge] for edge in exam.truth]
    false = [score for edge, score in pool.items() if edge not in exam.truth]
    if exam.groups:
        auroc, precision = group_auroc(pool, exam.groups), None
    else:
        auroc, precision = (score(pool, exam.truth, exam.pool) for score in (edge_auroc, edge_average_precision))
    excess = None
    if optimum is not None:
        circuit, _ = top_k(exam.judge.by_corruption(), scores, share=_SHARE)
        excess = len(circuit) - optimum
    true = min(max(pool[edge] for edge in unit) for unit in units)
    return _Answer(method, exam, true / largest, max(false) / largest, auroc, precision, excess, seconds)


def _row(method: str, answers: Sequence[_Answer]) -> Figures:
    """One method over all exams."""
    right = [_recovered(one, answers) for one in answers]
    excess = [one.excess for one in answers if one.excess is not None]
    precise = [one.average_precision for one in answers if one.average_precision is not None]
    return {
        "size": method,
        "shape": f"{len(answers)} exams",
        "auroc": min(one.auroc for one in answers),
        "auroc_mean": float(np.mean([one.auroc for one in answers])),
        "average_precision": float(np.mean(precise)),
        "exact_recovery": float(np.mean(right)),
        "excess": float(np.mean(excess)) if excess else None,
        "exam_seconds": sum(one.seconds for one in answers),
    }


def _recovered(answer: _Answer, answers: Sequence[_Answer]) -> bool:
    """Whether a threshold set on all other models tells the true edges from the others."""
    others = [one for one in answers if one.exam.model != answer.exam.model]
    low, high = max(one.false for one in others), min(one.true for one in others)
    threshold = float(np.sqrt(max(low, 1e-12) * max(high, 1e-12)))
    return answer.false < threshold < answer.true


def _optimum(exam: Exam) -> int | None:
    """The size of the smallest circuit with 95% of the gap, where few enough circuits decide it."""
    if exam.judge.options.ablation != "resample" or exam.groups:
        return None
    with remembering("runs"):
        smallest = smallest_circuit(exam.judge.by_corruption(), share=_SHARE, limit=_LIMIT)
    return len(smallest.circuit) if smallest.complete and smallest.circuit is not None else None


def toward_right(output: Tensor, batch: Batch, reference: Tensor | None = None) -> Tensor:
    """Projection of value outputs on the step from the wrong to the right answer, mean over scored positions."""
    if batch.wrong is None:
        raise ConfigError("toward_right needs batch.wrong")
    along = (output * (batch.targets - batch.wrong)).sum(-1)
    return torch.where(batch.scored, along, torch.zeros_like(along)).sum(1) / batch.scored.sum(1)

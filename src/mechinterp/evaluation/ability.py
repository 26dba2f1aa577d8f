"""Whether a model does the task of a pair: its loss beside trivial predictors, the best one, and untrained models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mechinterp.core import Batch, Options, Pair, TaskLike, derive_seed
from mechinterp.core.statistics import Interval, p_value, ratio_of_means
from mechinterp.interventions import Judge, Scorer, on_model
from mechinterp.models import Transformer, take

_NONE = np.zeros(0)


@dataclass(frozen=True)
class Ability:
    """How well a model does the task of a pair's clean examples.

    Args:
        share: The share of the way from the best trivial predictor's loss to the best predictor's that the model's loss
            has gone; 0 is trivial, 1 as good as the best reference. NaN where the two do not differ.
        loss: The model's mean loss per example at the scored positions.
        trivial: That of the best trivial predictor.
        trivial_name: Its name.
        best: That of the best reference predictor.
        untrained: That of each untrained model.
        p_value: Of the model's loss among those of untrained models: `(1 + #{untrained <= loss}) / (1 + n)`.
    """

    share: Interval
    loss: float
    trivial: float
    trivial_name: str
    best: float
    untrained: Float[np.ndarray, " untrained"]
    p_value: float


def ability(
    model: Transformer, pair: Pair, *, untrained: Float[np.ndarray, " untrained"] = _NONE, confidence: float = 0.95
) -> Ability:
    """Compare a model's loss on a pair's clean examples with what needs no circuit.

    The references are the predictors of the task that the pair was drawn from. A pair made by hand names no task: then
    the trivial predictor is the best constant answer (for tokens their frequencies in these very targets, which favours
    it), and the best reference has no loss.

    Args:
        model: The model.
        pair: Its clean examples are what the model is asked.
        untrained: Losses of untrained models on these examples: see `untrained_nulls`.
        confidence: Level of the share's interval.
    """
    clean = on_model(pair.clean, model)
    with torch.no_grad():
        losses = _mean_loss(model(clean.inputs), clean, pair.task)
    references = _references(on_model(pair, model))
    trivial_names = [name for name in (pair.task.trivial if pair.task else ()) if name in references] or ["constant"]
    trivial_name = min(trivial_names, key=lambda name: float(references[name].mean()))
    trivial = references[trivial_name]
    best = min((rows for name, rows in references.items()), key=lambda rows: float(rows.mean()))
    return Ability(
        share=ratio_of_means(trivial - losses, trivial - best, confidence),
        loss=float(losses.mean()),
        trivial=float(trivial.mean()),
        trivial_name=trivial_name,
        best=float(best.mean()),
        untrained=untrained,
        p_value=p_value(-losses.mean(), -untrained),
    )


def gap_size(values: Float[np.ndarray, " example"]) -> float:
    """The mean gap in units of its standard deviation over examples, with its sign; 0 where nothing differs.

    Free of the metric's scale: an untrained model with large weights has large gaps of either sign.
    """
    spread = float(values.std(ddof=1))
    return float(values.mean()) / spread if spread > 0 else 0.0


def untrained_nulls(
    judge: Judge, count: int, seed: int
) -> tuple[Float[np.ndarray, " untrained"], Float[np.ndarray, " untrained"]]:
    """The mean loss and the `gap_size` of untrained models of a judge's model, on its pair."""
    losses, gaps = np.full(count, np.nan), np.full(count, np.nan)
    pair = on_model(judge.pair, judge.model)
    for number in range(count):
        model = judge.transformer.untrained(derive_seed(seed, "untrained", number))
        with torch.no_grad():
            clean = model(pair.clean.inputs)
            losses[number] = _mean_loss(clean, pair.clean, pair.task).mean()
            gaps[number] = gap_size(_gap(model, pair, judge.options, clean))
    return losses, gaps


def _gap(model: Transformer, pair: Pair, options: Options, clean: Tensor) -> Float[np.ndarray, " example"]:
    """The metric of the whole model minus that of the empty circuit."""
    if options.ablation != "resample":
        judge = Judge(model, pair, options)
        return judge.full - judge.nothing
    # Under resampling the empty circuit is the corrupted run, so the circuits' engine is not needed.
    scorer = Scorer.of(pair, options, take(clean, pair.clean.at_scored()[1]))
    corrupted = take(model(pair.corrupted.inputs), scorer.positions)
    return (scorer(scorer.reference) - scorer(corrupted)).double().cpu().numpy()


def _references(pair: Pair) -> dict[str, np.ndarray]:
    """Name of a predictor -> its loss on each example."""
    batch = pair.clean
    if pair.task is not None and pair.task.predictors():
        predictors = pair.task.predictors().items()
        return {name: _mean_loss(predict(batch), batch, pair.task) for name, predict in predictors}
    targets = batch.targets
    if targets.is_floating_point():
        losses = (targets - targets[batch.scored].mean(0)).square().flatten(2).sum(-1)
    else:
        counts = torch.bincount(targets[batch.scored].clamp(min=0)).double()
        losses = -(counts / counts.sum()).log()[targets.clamp(min=0, max=len(counts) - 1)]
    return {"constant": _rows(losses, batch), "exact": np.zeros(len(batch))}


def _mean_loss(output: Tensor, batch: Batch, task: TaskLike | None) -> Float[np.ndarray, " example"]:
    if task is not None:
        return _rows(task.loss(output, batch), batch)
    if batch.targets.is_floating_point():
        return _rows((output - batch.targets.reshape(output.shape)).square().sum(-1), batch)
    flat = functional.cross_entropy(output.flatten(0, 1), batch.targets.flatten(), ignore_index=-1, reduction="none")
    return _rows(flat.view_as(batch.targets), batch)


def _rows(losses: Float[Tensor, "batch seq"], batch: Batch) -> Float[np.ndarray, " batch"]:
    """The mean over each example's scored positions."""
    scored = torch.where(batch.scored, losses, torch.zeros_like(losses)).double()
    return (scored.sum(1) / batch.scored.sum(1)).cpu().numpy()

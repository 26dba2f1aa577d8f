"""Score many runs of one pair at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.core import Batch, HookedModel, Metric, Options, Pair, ShapeError, takes
from mechinterp.interventions.hooks import quiet
from mechinterp.interventions.placement import on_model
from mechinterp.models import take


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores outputs that were computed at a pair's scored positions only.

    Args:
        name: The metric's name.
        metric: The metric.
        batch: The clean batch, packed to its scored positions.
        positions: Those positions, `[batch, scored]`.
        reference: The clean run's output there, `[batch, scored, out]`.
    """

    name: str
    metric: Metric
    batch: Batch
    positions: Int[Tensor, "batch scored"]
    reference: Float[Tensor, "batch scored out"]
    _repeated: dict[int, tuple[Batch, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pair: Pair, options: Options, clean_output: Float[Tensor, "batch scored out"]) -> Scorer:
        """A scorer for one pair; `clean_output` is the clean run's output at the scored positions."""
        name, function = options.resolved_metric
        batch, positions, _ = pair.clean.at_scored()
        return cls(name, function, batch, positions, clean_output)

    def __call__(self, output: Float[Tensor, "*patch batch scored out"]) -> Float[Tensor, "*patch batch"]:
        """The metric of each run and example.

        Raises:
            ShapeError: If the metric does not give one number per example.
        """
        lead, examples = output.shape[:-3], len(self.batch)
        times = output.shape[:-3].numel()
        batch, reference = self._repeat(times)
        values = self.metric(output.reshape(times * examples, *output.shape[-2:]), batch, reference)
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape != (times * examples,):
            gave = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise ShapeError(f"metric '{self.name}' gave {gave}, expected a tensor with one real number per example")
        return values.reshape(*lead, examples)

    def _repeat(self, times: int) -> tuple[Batch, Tensor]:
        """The batch and the reference, once per run; cached for the next chunk of the same size."""
        if times == 1:
            return self.batch, self.reference
        if times not in self._repeated:
            if len(self._repeated) > 3:
                self._repeated.clear()

            def many(value: Tensor) -> Tensor:
                return repeat(value, "batch ... -> (times batch) ...", times=times)

            wrong = None if self.batch.wrong is None else many(self.batch.wrong)
            batch = Batch(many(self.batch.inputs), many(self.batch.targets), many(self.batch.scored), wrong)
            self._repeated[times] = (batch, many(self.reference))
        return self._repeated[times]


@takes("metric")
def score_runs(model: HookedModel | nn.Module, pair: Pair, *, options: Options) -> tuple[Tensor, Tensor]:
    """The metric of the plain clean and the plain corrupted run, held to the clean answers.

    Args:
        model: A model that maps inputs to outputs.
        pair: Clean and corrupted inputs.
        options: See `Options`.

    Returns:
        Clean and corrupted values, `[batch]` each.
    """
    pair = on_model(pair, model)
    _, positions, _ = pair.clean.at_scored()
    with quiet(model):
        clean, corrupted = (take(model(batch.inputs), positions) for batch in (pair.clean, pair.corrupted))
    scorer = Scorer.of(pair, options.for_model(model), clean)
    with torch.no_grad():
        return scorer(clean), scorer(corrupted)

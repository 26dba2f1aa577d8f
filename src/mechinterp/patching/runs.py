"""The two runs to patch between, and how a patched run is scored."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from mechinterp.core import Options, Pair
from mechinterp.interventions import Activations, BaseRun, Scorer, ablated, activations
from mechinterp.models import Transformer
from mechinterp.patching.parts import repeated


@dataclass(frozen=True, eq=False)
class Runs:
    """The run that is patched, and the run that values come from.

    Args:
        model: A `Transformer` without hooks.
        base: The patched run before it is patched: corrupted for denoising, clean for noising.
        other: The other one.
        scorer: The metric on the clean answers.
        clean: The metric of the clean run.
        corrupted: The metric of the corrupted run.
        options: Which of the two is patched, and what the other run's values become.
        memory: Bytes for patched runs.
    """

    model: Transformer
    base: BaseRun
    other: Activations
    scorer: Scorer
    clean: Float[Tensor, " batch"]
    corrupted: Float[Tensor, " batch"]
    options: Options
    memory: float

    @classmethod
    def of(
        cls, model: Transformer, pair: Pair, options: Options, mean: Activations | None = None, patches_mb: float = 64.0
    ) -> Runs:
        """Run both inputs once.

        Args:
            model: A `Transformer` without hooks.
            pair: On the model's device.
            options: As above, and the memory budget, of which patched runs may take one half.
            mean: What takes the place of the other run, if the pair is a part of one that a mean is taken over.
            patches_mb: More memory for patched runs makes them no faster.
        """
        both = [activations(model, batch.inputs) for batch in (pair.clean, pair.corrupted)]
        _, positions, _ = pair.clean.at_scored()
        bases = [BaseRun.of(model, run, positions) for run in both]
        scorer = Scorer.of(pair, options, bases[0].output)
        clean, corrupted = (scorer(base.output) for base in bases)
        mine = 0 if options.direction == "noise" else 1
        other = both[1 - mine] if mean is None else repeated(mean, len(pair))
        memory = options.memory(2 * patches_mb, pair.clean.device) / 2
        return cls(model, bases[mine], other, scorer, clean, corrupted, options, memory)

    def effect(self, output: Float[Tensor, "*patch batch scored out"]) -> Float[Tensor, "*patch batch"]:
        """What a patch changed, positive where the clean value helps."""
        value = self.scorer(output)
        return self.clean - value if self.options.direction == "noise" else value - self.corrupted

    def step(self, other: Tensor, this: Tensor, batch_dim: int = 0) -> Tensor:
        """From this run's value to what replaces it."""
        return ablated(other, self.options.ablation, batch_dim) - this

    def affordable(self, tail: int) -> int:
        """How many patched runs of `tail` positions fit into a memory budget; at least one."""
        config = self.model.config
        # Live at once: a row's activations; scores where attention is explicit; outputs.
        scored = self.base.scored.index.shape[1]
        numbers = tail * (config.row_width + config.n_heads * min(tail, scored)) + 4 * scored * config.features_out
        size = numbers * self.clean.element_size() * len(self.clean)
        return max(1, int(self.memory / size))

"""In-context classification: does a model read the label from the context, or remember it in its weights?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cached_property
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from mechinterp.core import Batch, ConfigError, Pair, UnsupportedError, generator, normal, uniform
from mechinterp.tasks.base import ALL, Predictor, Preset, Task
from mechinterp.tasks.common.draws import collect, first_allowed, first_distinct
from mechinterp.tasks.common.label_predictors import AnyLabel, NearestClass, NearestNeighbour, SeenLabels
from mechinterp.tasks.common.labelled_items import LabelledItems

ContextKind = Literal["trained", "novel", "swapped", "absent"]


class Classification(Task):
    """Items with their labels, then one more item; name its label.

    An item is a vector, its class's mean with noise: `(mean + noise * e) / sqrt(1 + noise^2)`; means, e and the
    labels' vectors are N(0, 1/dim). Each class has one label for good, dealt out evenly. A context of `pairs` items
    shows `burstiness` of each of its classes, in random order. One sequence of `pairs=4, burstiness=2`, with items of
    the classes A and B, whose labels are a and b::

        position   0  1  2  3  4  5  6  7  8
        input      A  a  B  b  B  b  A  a  A     items differ, also within a class; a class's label is always the same
        target     .  .  .  .  .  .  .  .  a
        scored     .  .  .  .  .  .  .  .  *     the query

    What the context shows (`variants` has the others)::

        trained    classes with their labels, the query's among them: weights and context both know the answer
        novel      new classes with random labels: only the context knows
        swapped    classes with other labels than theirs; right is what the context says
        absent     neither the query's class nor its label is in the context: only the weights know

    A pair is right about label a in one run and about b in the other. Roles: `query`, and for each copy, by order of
    position, `right_item_1`, `right_label_1`, ... and `other_item_1`, `other_label_1`, ... (the class of the twin's
    answer). The corruptions::

        label      A  b  B  a  B  a  A  b  A     the two classes exchange their labels: the answer is b
        item       B  a  A  b  A  b  B  a  A     the two classes exchange their items: the answer is b
        query      A  a  B  b  B  b  A  a  B     the query is an item of the other class: the answer is b

    Args:
        classes: K, how many there are; many favour reading the context, few favour remembering.
        labels: L, how many there are.
        dim: Features of an item.
        pairs: N, items with labels before the query.
        burstiness: B, items of each class in the context; divides `pairs`.
        noise: Of an item around its class's mean, relative.
        zipf: Exponent a of the classes' frequencies, k^-a.
        context: What the context shows.
        world: Seed of the classes and labels, which are part of the task: `seed` draws sequences only.

    Source: Reddy 2024, after Chan et al. 2022. Differs: sequences always start at position 0, and labels are dealt
    out evenly.

    >>> task = Classification(pairs=4, classes=16, labels=16)
    >>> batch = task.batch(1, seed=0)
    >>> batch.inputs.shape, batch.latents["label"][0].tolist(), int(batch.targets[0, -1])
    (torch.Size([1, 9, 63]), [-1, 1, -1, 9, -1, 9, -1, 1, -1], 1)
    """

    name: ClassVar[str] = "classification"
    corruptions: ClassVar[tuple[str, ...]] = ("label", "item", "query")
    trivial = ("uniform", "context_labels")

    classes: int = Field(2048, ge=1, description="classes in training")
    labels: int = Field(32, ge=2, description="labels")
    dim: int = Field(63, ge=1, description="features of an item")
    pairs: int = Field(8, ge=1, description="items with labels in the context")
    burstiness: int = Field(2, ge=1, description="items of each class in the context")
    noise: float = Field(0.1, ge=0, description="noise of items around their class's mean")
    zipf: float = Field(0.0, ge=0, description="exponent of the classes' frequencies")
    context: ContextKind = Field("trained", description="what the context shows")
    world: int = Field(0, description="seed of classes and labels")

    @model_validator(mode="after")
    def _fits(self) -> Classification:
        if self.pairs % self.burstiness:
            raise ValueError(f"burstiness={self.burstiness} does not divide pairs={self.pairs}")
        absent = self.context == "absent"
        if self.context != "novel" and self.classes < self._shown + absent:
            raise ValueError(f"{self._shown + absent} classes are needed for a sequence, and classes={self.classes}")
        if absent and min(self.labels, self.classes) <= self._shown:
            raise ValueError(f"context='absent' needs a label that none of the {self._shown} classes shown has")
        return self

    @property
    def _shown(self) -> int:
        """Classes in a context."""
        return self.pairs // self.burstiness

    @property
    def seq_len(self) -> int:
        """Positions: items and labels by turns, then the query."""
        return 2 * self.pairs + 1

    @cached_property
    def means(self) -> Float[Tensor, "classes dim"]:
        """The classes' means."""
        return self._vectors(self.classes, generator(self.world, self.name, "means"))

    @cached_property
    def label_vectors(self) -> Float[Tensor, "labels dim"]:
        """What stands at a label's position."""
        return self._vectors(self.labels, generator(self.world, self.name, "label vectors"))

    @cached_property
    def label_of(self) -> Int[Tensor, " classes"]:
        """Each class's label."""
        return torch.randperm(self.classes, generator=generator(self.world, self.name, "labels")) % self.labels

    @property
    def latents(self) -> Mapping[str, int | None]:
        """What a probe may look for.

        `label`: at labels. `in_context_label`: at items, how the class was labelled before (none the first time).
        `in_weights_label`: at items, the class's own for good (none for novel classes). `is_label`: which of the two.
        """
        return dict(label=self.labels, in_context_label=self.labels, in_weights_label=self.labels, is_label=2)

    def batch(self, batch: int = 64, seed: int = 0) -> Batch:
        """Draw sequences; only the query has a target."""
        drawn = self._draw(batch, generator(seed, self.name, "batch", self.context))
        return drawn.batch(self.label_vectors)

    def variants(self) -> dict[str, Task]:
        """The task with each other context that its sizes allow."""
        others: dict[str, Task] = {}
        for context in get_args(ContextKind):
            with suppress(ConfigError):
                others[context] = type(self)(**{**self.model_dump(), "context": context})
        others.pop(self.context)
        return others

    def pair(self, batch: int = 64, seed: int = 0, corruption: str = ALL) -> Pair:
        """Draw sequences with twins whose answer is the label of another class in the context.

        Args:
            batch: How many.
            seed: Pairs and batches of one seed share no randomness.
            corruption: `label`, `item` or `query`, or `all` mixed; the class shows all three.

        Raises:
            ConfigError: If the corruption is unknown, or no context shows two labels and the answer.
        """
        if self.context == "absent" or self._shown < 2:
            raise UnsupportedError(f"{self!r} has no pairs: the context must show the query's class and another one")
        gen = generator(seed, self.name, "pair", self.context)

        def draw() -> tuple[Tensor, ...]:
            drawn = self._draw(batch, gen)
            return drawn.take((drawn.labels != drawn.labels[:, -1:]).any(1)).parts

        failure = f"{self!r} leaves too few sequences with two labels: give it more labels"
        return self._twins(LabelledItems(*collect(draw, batch, failure)), corruption, gen)

    def predictors(self) -> dict[str, Predictor]:
        """Log probabilities of labels at items, from what comes before; at labels, whose next is an item, uniform.

        `uniform`: right 1/L of the time. `context_labels`: labels seen, as often as seen; right B/N. The ideal ways:
        `nearest_neighbour`: the label of the nearest item in the context. `in_weights`: the label of the nearest
        class's mean among all classes of training.
        """
        return {
            "uniform": AnyLabel(self.label_vectors),
            "context_labels": SeenLabels(self.label_vectors),
            "nearest_neighbour": NearestNeighbour(self.label_vectors),
            "in_weights": NearestClass(self.label_vectors, self.means, self.label_of),
        }

    def preset(self) -> Preset:
        """Two one-head attention layers without norm on inputs beside one-hot positions, and a readout of ReLUs.

        Seen on three fresh seeds, of 1,024 sequences: novel classes reach .95 at step 800 and end at .992-.996, swapped
        labels at .992-.995, absent classes at .003-.004; each label attends to its item with .88-.89, the query to the
        right labels with .88-.89. With `burstiness=1` and 64 or 128 classes absent ones are right from step 100 on,
        novel ones by chance only.
        """
        width = max(128, self.dim + self.seq_len)
        model = dict(
            n_layers=2, n_heads=1, d_model=width, n_ctx=self.seq_len, inputs="vectors", d_in=self.dim,
            d_vocab_out=self.labels, embedding="fixed", normalization="none", attn_bias=False, unembed_bias=True,
            readout_layers=3,
        )  # fmt: skip
        training = dict(batch_size=128, steps=2500, lr=3e-3, beta1=0.9, beta2=0.999)
        return Preset(model, training)

    def _vectors(self, count: int, gen: torch.Generator) -> Tensor:
        return normal(gen, count, self.dim) / self.dim**0.5

    def _noisy(self, means: Tensor, gen: torch.Generator) -> Tensor:
        scale = self.noise / self.dim**0.5
        return (means + scale * normal(gen, *means.shape)) / (1 + self.noise**2) ** 0.5

    def _draw(self, batch: int, gen: torch.Generator) -> LabelledItems:
        """The context's classes in random order, and the query's among them (or not, if it is to be absent)."""
        slots = uniform(gen, batch, self.pairs).argsort(1) // self.burstiness
        query = torch.randint(self._shown, (batch, 1), generator=gen)
        places = torch.cat([slots, query], 1)
        if self.context == "novel":
            means = self._vectors(batch * self._shown, gen).view(batch, self._shown, self.dim)
            own = torch.randint(self.labels, (batch, self._shown), generator=gen)
            centres = means[torch.arange(batch)[:, None], places]
            return self._drawn(centres, places, own.gather(1, places), torch.full_like(places, -1), gen)
        classes = first_distinct(self._weights, batch, self._shown, gen)
        who, own = classes.gather(1, places), self.label_of[classes]
        if self.context == "swapped":
            own = (own + torch.randint(1, self.labels, own.shape, generator=gen)) % self.labels
        labels = own.gather(1, places)
        if self.context == "absent":
            who[:, -1:] = first_allowed(
                self._weights, lambda k: (self.label_of[k][..., None] != own[:, None]).all(-1), batch, gen
            )
            labels[:, -1] = self.label_of[who[:, -1]]
        return self._drawn(self.means[who], who, labels, self.label_of[who], gen)

    def _drawn(
        self, centres: Tensor, who: Tensor, labels: Tensor, known: Tensor, gen: torch.Generator
    ) -> LabelledItems:
        return LabelledItems(self._noisy(centres, gen), centres, who, labels, known)

    @cached_property
    def _weights(self) -> Float[Tensor, " classes"]:
        return torch.arange(1, self.classes + 1, dtype=torch.float64) ** -self.zipf

    def _twins(self, clean: LabelledItems, how: str, gen: torch.Generator) -> Pair:
        """What the class shows: the chosen parts of the sequence change places, or the query is another."""
        count, rows = len(clean.who), torch.arange(len(clean.who))[:, None]
        differs = clean.labels[:, :-1] != clean.labels[:, -1:]
        slot = torch.multinomial(differs.float(), 1, generator=gen)
        right, other = (
            (clean.who[:, :-1] == clean.who[rows, at]).nonzero()[:, 1].view(count, self.burstiness) for at in (-1, slot)
        )
        there, back = torch.cat([right, other], 1), torch.cat([other, right], 1)
        moved = {"label": ("labels",), "item": ("items", "centres", "who", "known"), "query": ()}[how]
        parts = {item.name: getattr(clean, item.name).clone() for item in fields(clean)}
        for part in moved:
            parts[part][rows, there] = parts[part][rows, back]
        if how == "query":
            for part in ("centres", "who", "known"):
                parts[part][:, -1] = parts[part][rows, slot][:, 0]
            parts["items"][:, -1] = self._noisy(parts["centres"][:, -1], gen)
        parts["labels"][:, -1] = clean.labels[rows, slot][:, 0]
        twin = LabelledItems(**parts)
        roles = {"query": torch.full((count,), self.seq_len - 1)}
        for name, slots in (("right", right), ("other", other)):
            for copy in range(self.burstiness):
                roles[f"{name}_item_{copy + 1}"] = 2 * slots[:, copy]
                roles[f"{name}_label_{copy + 1}"] = 2 * slots[:, copy] + 1
        return Pair(clean.batch(self.label_vectors, twin, roles), twin.batch(self.label_vectors, clean, roles))

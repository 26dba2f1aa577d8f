"""`check`: whether a task keeps the promises that every analysis relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mechinterp.core import Batch, ConfigError, MechinterpError, Pair, UnsupportedError
from mechinterp.tasks.base import ALL, Task, from_dict


@dataclass(frozen=True)
class Offer:
    """What a task offers beyond batches; each part opens analyses.

    Args:
        corruptions: Of its pairs: patching, estimates, circuits. `("all",)` where they have no names; empty without
            pairs.
        roles: Positions by name in its pairs: effects by role.
        latents: Hidden variables: probes.
        predictors: Reference predictors: comparisons with theory.
        trivial: Those of them that need no circuit: whether a circuit is found.
        groups: Positions whose loss has a line of its own.
        variants: Conditions that training does not show.
        preset: Whether it trains without a configuration.
    """

    corruptions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()
    predictors: tuple[str, ...] = ()
    trivial: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    preset: bool = False


def check(task: Task, examples: int = 16) -> Offer:
    """Check that a task keeps the contract of `Task`, as every analysis relies on it.

    Settings survive `to_dict`. Draws have the size asked for, are the same for the same seed whatever torch's global
    seed and default type are, leave these alone, and differ between seeds. Scored positions have answers. A pair's two
    sides differ in every example, score positions whose right answer differs, and name the same roles. Latents,
    predictors, groups, variants and the loss have the shapes and values that `Task` names.

    Args:
        task: The task.
        examples: How many are drawn at a time.

    Returns:
        What the task offers beyond batches.

    Raises:
        ConfigError: If it breaks the contract, naming each broken promise.

    >>> from mechinterp.tasks import Regression
    >>> check(Regression()).corruptions
    ('weights', 'query')
    """
    faults = list(_faults(task, examples))
    if faults:
        numbered = "; ".join(f"({number}) {fault}" for number, fault in enumerate(faults, 1))
        raise ConfigError(f"task '{task.name}' breaks its contract: {numbered}")
    pair = _pair(task, examples, 0, ALL)
    try:
        task.preset()
        preset = True
    except UnsupportedError:
        preset = False
    return Offer(
        corruptions=(task.corruptions or (ALL,)) if pair is not None else (),
        roles=tuple(pair.clean.roles) if pair is not None else (),
        latents=tuple(task.latents),
        predictors=tuple(task.predictors()),
        trivial=task.trivial,
        groups=tuple(task.groups(task.batch(examples, 0))),
        variants=tuple(task.variants()),
        preset=preset,
    )


def _faults(task: Task, examples: int) -> Iterator[str]:
    for part in (_settings, _batches, _pairs, _latents, _predictors, _groups):
        try:
            yield from part(task, examples)
        except MechinterpError as error:
            yield f"{part.__name__[1:]}: {error}"
        except Exception as error:  # of the user's code
            yield f"{part.__name__[1:]}: {type(error).__name__}: {error}"


def _settings(task: Task, examples: int) -> Iterator[str]:
    if from_dict(task.to_dict()) != task:
        yield "its settings are others after to_dict and from_dict"


def _batches(task: Task, examples: int) -> Iterator[str]:
    for count in (1, examples):
        if len(task.batch(count, 0)) != count:
            yield f"batch({count}) draws {len(task.batch(count, 0))} examples"
    batch = task.batch(examples, 0)
    yield from _reproducible("batch", lambda seed: [task.batch(examples, seed)])
    yield from _reproducible("training_batch", lambda seed: [task.training_batch(examples, seed, 3)], vary=False)
    yield from _answered("batch", batch)
    loss = task.loss(_zeros(task, batch), batch)
    if loss.shape != batch.inputs.shape[:2]:
        yield f"loss returns {list(loss.shape)}, expected [batch, seq]"
    elif not bool(loss[batch.scored].isfinite().all()):
        yield "the loss of equal logits is not finite"


def _answered(where: str, batch: Batch) -> Iterator[str]:
    """Scored positions, and what stands at them."""
    if not bool(batch.scored.any()):
        yield f"{where} scores no position"
    if batch.inputs.is_floating_point():
        if not bool(batch.inputs.isfinite().all()):
            yield f"{where} has inputs that are not finite"
    elif batch.inputs.dtype != torch.int64 or int(batch.inputs.min()) < 0:
        yield f"{where} has inputs that are no tokens: integers (torch.int64) from 0"
    targets = batch.targets[batch.scored]
    bad = ~targets.isfinite() if targets.is_floating_point() else targets < 0
    if bool(bad.any()):
        yield f"{where} has no answer at a scored position"


def _pair(task: Task, examples: int, seed: int, corruption: str) -> Pair | None:
    try:
        return task.pair(examples, seed, corruption)
    except UnsupportedError:
        return None


def _pairs(task: Task, examples: int) -> Iterator[str]:
    for corruption in (*task.corruptions, ALL):
        pair = _pair(task, examples, 0, corruption)
        if pair is None:  # refused with a reason
            return
        name = f"pair('{corruption}')"
        if len(pair) != examples:
            yield f"{name} draws {len(pair)} examples of {examples}"
        yield from _reproducible(name, lambda seed, kind=corruption: _sides(task.pair(examples, seed, kind)))
        yield from _answered(f"{name}, clean", pair.clean)
        yield from _answered(f"{name}, corrupted", pair.corrupted)
        yield from _counterfactual(name, pair)


def _counterfactual(name: str, pair: Pair) -> Iterator[str]:
    clean, corrupted, scored = pair.clean, pair.corrupted, pair.clean.scored
    if bool((clean.inputs == corrupted.inputs).flatten(1).all(1).any()):
        yield f"{name} has an example whose inputs are the same on both sides"
    same = clean.targets == corrupted.targets
    same = same if same.ndim == 2 else same.all(-1)
    if bool(same[scored].any()):
        yield f"{name} scores a position whose right answer the corruption leaves as it is"
    tokens = not clean.targets.is_floating_point()
    if tokens and clean.wrong is not None and bool((clean.wrong == clean.targets)[scored].any()):
        yield f"{name} names the right answer as the wrong one"
    if set(clean.roles) != set(corrupted.roles):
        yield f"{name} has other roles on its clean side than on its corrupted one"


def _latents(task: Task, examples: int) -> Iterator[str]:
    batch = task.batch(examples, 0)
    for name, classes in task.latents.items():
        if name not in batch.latents:
            yield f"latent '{name}' is in no batch"
            continue
        values = batch.latents[name]
        if classes is None and not values.is_floating_point():
            yield f"latent '{name}' is declared a real value and holds {values.dtype}"
        elif classes is not None and (
            values.is_floating_point() or not -1 <= int(values.min()) <= int(values.max()) < classes
        ):
            yield f"latent '{name}' has {classes} classes and holds other values than -1 to {classes - 1}"


def _predictors(task: Task, examples: int) -> Iterator[str]:
    batch = task.batch(examples, 0)
    for name, predict in task.predictors().items():
        output = predict(batch)
        if output.shape[:2] != batch.inputs.shape[:2] or output.ndim != 3:
            yield f"predictor '{name}' returns {list(output.shape)}, expected [batch, seq, outputs]"
            continue
        if not bool(task.loss(output, batch)[batch.scored].isfinite().all()):
            yield f"predictor '{name}' has a loss that is not finite"
        total = output[batch.scored].double().exp().sum(-1)
        if not batch.targets.is_floating_point() and not torch.allclose(total, torch.ones_like(total), atol=1e-3):
            yield f"predictor '{name}' returns no log probabilities: they sum to {float(total.mean()):.3g}"
    unknown = [name for name in task.trivial if name not in task.predictors()]
    if unknown:
        yield f"it calls '{unknown[0]}' trivial, which is none of its predictors"


def _groups(task: Task, examples: int) -> Iterator[str]:
    batch = task.batch(examples, 0)
    for name, mask in task.groups(batch).items():
        if mask.dtype != torch.bool or mask.shape != batch.inputs.shape[:2]:
            yield f"group '{name}' is no mask [batch, seq]"
    for name, variant in task.variants().items():
        if not isinstance(variant, Task):
            yield f"variant '{name}' is no task"
        else:
            yield from _answered(f"variant '{name}'", variant.batch(examples, 0))


def _reproducible(name: str, draw: Callable[[int], list[Batch]], vary: bool = True) -> Iterator[str]:
    """What `draw(seed)` depends on, and what it leaves behind."""
    before, default = torch.get_rng_state(), torch.get_default_dtype()
    first = draw(0)
    if not torch.equal(torch.get_rng_state(), before):
        yield f"{name} draws from torch's global generator: use mechinterp.core.generator(seed, ...)"
        torch.set_rng_state(before)
    elif not _equal(first, draw(0)):
        yield f"{name} draws other examples from the same seed"
    try:
        torch.set_default_dtype(torch.float64)
        if not _equal(first, draw(0)):
            yield f"{name} draws other examples under torch.set_default_dtype(torch.float64): state the type of draws"
    finally:
        torch.set_default_dtype(default)
    if vary and _equal(first, draw(1)):
        yield f"{name} draws the same examples from different seeds"


def _sides(pair: Pair) -> list[Batch]:
    return [pair.clean, pair.corrupted]


def _equal(first: list[Batch], second: list[Batch]) -> bool:
    pairs = [(_tensors(one), _tensors(other)) for one, other in zip(first, second, strict=True)]
    return all(
        one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
        for one, other in pairs
    )


def _tensors(batch: Batch) -> Mapping[str, Tensor]:
    parts = {"inputs": batch.inputs, "targets": batch.targets, "scored": batch.scored, "wrong": batch.wrong}
    named = {f"role {name}": value for name, value in batch.roles.items()}
    named |= {f"latent {name}": value for name, value in batch.latents.items()}
    return {name: value for name, value in {**parts, **named}.items() if value is not None}


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())  # NaN is a value of latents


def _zeros(task: Task, batch: Batch) -> Tensor:
    """Equal logits, or zeros where the task wants values."""
    if batch.targets.is_floating_point():
        return torch.zeros_like(batch.targets[..., None] if batch.targets.ndim == 2 else batch.targets)
    return torch.zeros(*batch.targets.shape, int(batch.targets.max()) + 1, dtype=torch.float32)

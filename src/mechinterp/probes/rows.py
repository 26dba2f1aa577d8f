"""Which positions of which sequences a probe sees, their activations, and the labels of its nulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.core import Batch, ConfigError, Site, generator, suggest
from mechinterp.interventions import record
from mechinterp.models import Transformer
from mechinterp.probes.linear import Rows
from mechinterp.tasks import Task


@dataclass(frozen=True, eq=False)
class ProbePlaces:
    """Positions drawn from one half of the sequences.

    Args:
        sequences: All sequences of this half `[m]`, whether a position was drawn from them or not.
        sequence: Sequence of each place `[n]`, ascending.
        pos: Position of each place `[n]`.
        labels: The variable there: classes `[n]` or values `[n, k]`.
        tokens: Token there `[n]`, None for vectors.
        left_out: Positions of this half that were left out because the other half has seen all that leads to them.
    """

    sequences: Tensor
    sequence: Tensor
    pos: Tensor
    labels: np.ndarray
    tokens: np.ndarray | None
    left_out: int = 0


def defined(labels: Tensor) -> Bool[Tensor, "batch seq"]:
    """Where a variable has a value: classes other than -1, values other than NaN."""
    if not labels.is_floating_point():
        return labels >= 0
    good = labels.isfinite()
    return good if good.ndim == 2 else good.all(-1)


def probed(batch: Batch, labels: Tensor, where: str) -> Bool[Tensor, "batch seq"]:
    """The positions that a probe looks at.

    Raises:
        ConfigError: If `where` is unknown.
    """
    if where not in ("defined", "scored"):
        raise ConfigError(f"where='{where}' is unknown: use 'defined' or 'scored'")
    return defined(labels) & batch.scored if where == "scored" else defined(labels)


def sequences_of(batch: Batch, task: Task, group: str | None) -> Bool[Tensor, " batch"]:
    """Which sequences have a position of one of the task's groups; all for None.

    Raises:
        ConfigError: If the task has no such group.
    """
    if group is None:
        return torch.ones(len(batch), dtype=torch.bool, device=batch.device)
    groups = task.groups(batch)
    if group not in groups:
        raise ConfigError(f"task '{task.name}' has no group of positions '{group}'.{suggest(group, groups)}")
    return groups[group].any(1)


def choose_places(
    batch: Batch,
    labels: Tensor,
    where: str,
    limit: int,
    seed: int,
    causal: bool = True,
    sequences: tuple[Tensor, Tensor] | None = None,
) -> tuple[ProbePlaces, ProbePlaces]:
    """Places to fit on and places to score, from sequences that have no copy on the other side.

    At a position of a causal model an activation is a function of the sequence up to there. Places to score whose
    sequence up to there is the beginning of a sequence to fit on are therefore left out: the probe has seen them.

    Args:
        batch: The sequences.
        labels: The variable.
        where: `defined` or `scored`.
        limit: At most so many places of each half, drawn at random.
        seed: Of the split and the draw.
        causal: Whether a position sees only what comes before it; otherwise it sees the whole sequence.
        sequences: Which sequences may be fitted on, and which may be scored, bool `[batch]` each; None for all.

    Raises:
        ConfigError: If fewer than two different sequences came, a half has no position, all to score were seen, or the
            variable takes one value only.
    """
    mask = probed(batch, labels, where)
    # Equal sequences stay together; tasks with few different ones would else score what was fitted.
    _, group = batch.inputs.flatten(1).unique(dim=0, return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0
    if groups < 2:
        raise ConfigError(f"{groups} different sequences cannot be split in two: raise examples")
    order = torch.randperm(groups, generator=generator(seed, "probe", "split")).to(group.device)
    first = order[group] < groups // 2
    halves = (first, ~first)
    if sequences is not None:
        halves = tuple(half & allowed for half, allowed in zip(halves, sequences, strict=True))
    parts = {name: mask & half[:, None] for name, half in zip(("fit", "score"), halves, strict=True)}
    repeated = torch.zeros_like(mask)
    if causal:
        prefixes = prefix_numbers(batch.inputs)
        repeated = torch.isin(prefixes, prefixes[parts["fit"]]) & parts["score"]
    places = []
    for (name, part), half in zip(parts.items(), halves, strict=True):
        sequence, pos = (part & ~repeated).nonzero(as_tuple=True)
        if not len(sequence):
            reason = "the probe would be fitted on all that leads there" if part.any() else "the variable is undefined"
            raise ConfigError(f"no {where} position to {name}: {reason}; raise examples")
        if len(sequence) > limit:
            draw = torch.randperm(len(sequence), generator=generator(seed, "probe", "positions", name))[:limit]
            keep = draw.sort().values.to(sequence.device)
            sequence, pos = sequence[keep], pos[keep]
        values = labels[sequence, pos].cpu().numpy()
        values = values.reshape(len(values), -1).astype(float) if labels.is_floating_point() else values
        tokens = batch.inputs[sequence, pos].cpu().numpy() if batch.inputs.ndim == 2 else None
        left_out = int((part & repeated).sum())
        places.append(ProbePlaces(half.nonzero().flatten(), sequence, pos, values, tokens, left_out))
    fit, ask = places
    if (fit.labels == fit.labels[:1]).all():
        raise ConfigError(f"the variable has one value only ({fit.labels[0]}): there is nothing to probe")
    return fit, ask


def prefix_numbers(inputs: Tensor) -> Int[Tensor, "batch seq"]:
    """A number for each place: two places share it if their positions, and all inputs up to there, are equal.

    Args:
        inputs: Tokens `[batch, seq]` or vectors `[batch, seq, d_in]`.
    """
    count = len(inputs)
    known = torch.zeros(count, dtype=torch.long, device=inputs.device)
    columns = []
    for pos in range(inputs.shape[1]):
        _, here = inputs[:, pos].reshape(count, -1).unique(dim=0, return_inverse=True)
        _, known = (known * count + here).unique(return_inverse=True)
        columns.append(known + pos * count)
    return torch.stack(columns, 1)


def features(
    model: Transformer, inputs: Tensor, sites: Sequence[Site], halves: Sequence[ProbePlaces], chunk: int
) -> list[list[Float[Tensor, "n d"]]]:
    """Activations of each site (outer list) at the places of each half (inner list)."""
    parts: list[list[list[Tensor]]] = [[[] for _ in halves] for _ in sites]
    for start in range(0, len(inputs), chunk):
        _, activations = record(model, inputs[start : start + chunk], sites)
        for site, pieces in zip(sites, parts, strict=True):
            x = view(activations[site.hook], site)
            for places, piece in zip(halves, pieces, strict=True):
                here = (places.sequence >= start) & (places.sequence < start + chunk)
                piece.append(x[places.sequence[here] - start, places.pos[here]])
    return [[torch.cat(piece) for piece in pieces] for pieces in parts]


def view(value: Tensor, site: Site) -> Float[Tensor, "batch seq d"]:
    """An activation as one vector per position: a single head's, or all heads' side by side."""
    if not site.has_heads:
        return value
    return (
        value[:, :, site.index]
        if site.head is not None
        else rearrange(value, "batch seq head d_head -> batch seq (head d_head)")
    )


def written(value: Tensor, site: Site, x: Float[Tensor, "batch seq d"]) -> Tensor:
    """The activation with `x` in place of what `view` shows; a new tensor."""
    if not site.has_heads:
        return x
    if site.head is None:
        return x.unflatten(2, value.shape[2:])
    edited = value.clone()
    edited[:, :, site.index] = x
    return edited


def shuffled_labels(places: ProbePlaces, seed: int) -> np.ndarray:
    """Labels exchanged at random between the places at one position of different sequences."""
    rng = np.random.default_rng(generator(seed, "probe", "shuffle").initial_seed())
    shuffled, pos = places.labels.copy(), places.pos.cpu().numpy()
    for here in np.unique(pos):
        rows = np.flatnonzero(pos == here)
        shuffled[rows] = places.labels[rng.permutation(rows)]
    return shuffled


def no_control(rows: Rows) -> str:
    """Why a control task would say nothing; empty where it says something.

    Where types do not outnumber dimensions a linear probe can learn any labelling of them.
    """
    if rows.token is None:
        return "the model reads vectors: there are no token types to label"
    types, dims = len(np.unique(rows.token)), rows.x.shape[1]
    return "" if types > dims else f"{types} token types do not outnumber {dims} dimensions: any labelling is decodable"


def control_labels(fit: Rows, ask: Rows, seed: int) -> tuple[Rows, Rows]:
    """The control task's rows: each token type gets one label, drawn from the true ones.

    Source: Hewitt & Liang 2019.
    """
    if fit.token is None or ask.token is None:
        raise ConfigError(no_control(fit if fit.token is None else ask))
    rng = np.random.default_rng(generator(seed, "probe", "control").initial_seed())
    largest = int(max(fit.token.max(), ask.token.max()))
    label = fit.y[rng.integers(len(fit.y), size=largest + 1)]
    return replace(fit, y=label[fit.token]), replace(ask, y=label[ask.token])

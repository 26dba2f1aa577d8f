"""Measures of modular addition: the Fourier structure of logits, neurons and embedding, and of progress towards it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from mechinterp.attribution import fourier
from mechinterp.core import HookedModel, Site, UnsupportedError, generator, labelled
from mechinterp.interventions import as_transformer, on_model, quiet, record, run_edited
from mechinterp.measures.registry import register_measure
from mechinterp.models import Transformer
from mechinterp.tasks import ModularAddition, Task


@register_measure("sum_spectrum")
def sum_spectrum(model: nn.Module, task: Task, seed: int) -> xr.DataArray:
    """Share of the logits' variance in cos and sin of w (a + b), over the whole table: dimension frequency (1, 2, ...).

    Of modular addition only; no examples are drawn. See `attribution.fourier.sum_spectrum`.
    """
    share = fourier.sum_spectrum(_table(model, _modular(task)))
    return labelled(share, ["frequency"], {"frequency": list(range(1, len(share) + 1))})


@register_measure("progress_losses")
def progress_losses(
    model: nn.Module, task: Task, seed: int, *, frequencies: Sequence[int] | None = None
) -> xr.DataArray:
    """Loss with all of the logits, with the key frequencies alone, and without them, over the whole table.

    Of modular addition only; no examples are drawn.

    Args:
        model: The model.
        task: Modular addition.
        seed: Not used.
        frequencies: Along training, the key frequencies of the final model (`attribution.fourier.key_frequencies`);
            None takes this model's own.

    Returns:
        Dimensions logits (`full`, `restricted`, `excluded`), group (`train`, `test`), in nats.

    Source: Nanda et al. 2023. There the excluded loss is on the training set; the restricted loss is on all examples.
    """
    task = _modular(task)
    logits = _table(model, task)
    keys = fourier.key_frequencies(logits) if frequencies is None else list(frequencies)
    tables = (logits, fourier.restricted_logits(logits, keys), fourier.excluded_logits(logits, keys))
    batch = task.table()
    groups = {name: mask[:, -1] for name, mask in task.groups(batch).items()}
    answers = batch.targets[:, -1]
    losses = [torch.nn.functional.cross_entropy(table.flatten(0, 1), answers, reduction="none") for table in tables]
    rows = torch.stack([torch.stack([loss[mask].mean() for mask in groups.values()]) for loss in losses])
    coords = {"logits": ["full", "restricted", "excluded"], "group": list(groups)}
    return labelled(rows, ["logits", "group"], coords, frequencies=", ".join(str(key) for key in keys))


@register_measure("gradient_symmetricity")
def gradient_symmetricity(model: nn.Module, task: Task, seed: int, *, examples: int = 100) -> xr.DataArray:
    """Cosine between gradients with respect to both summands' embeddings, for random answers: dimension example.

    Of modular addition only. See `attribution.fourier.gradient_symmetricity`.
    """
    task, model = _modular(task), as_transformer(model, "gradients of embeddings need")
    batch = task.batch(examples, seed)
    answers = torch.randint(task.p, (examples,), generator=generator(seed, "answers"))
    with quiet(model):
        inputs, answers = on_model(batch.inputs, model), on_model(answers, model)
        return labelled(fourier.gradient_symmetricity(model, inputs, answers), ["example"])


@register_measure("key_share")
def key_share(
    model: nn.Module, task: Task, seed: int, *, threshold: float = 0.02, top: int | None = None
) -> xr.DataArray:
    """How much of the logits' variance a few frequencies of a + b hold.

    Args:
        model: The model.
        task: Modular addition.
        seed: Not used.
        threshold: A key frequency has more than this share.
        top: Take so many of the largest shares instead, key or not: what a null is measured with.

    Returns:
        Dimension quantity: `share` of the variance, `count` of frequencies.

    Source: Nanda et al. 2023 (published: five key frequencies, 95%).
    """
    shares = fourier.sum_spectrum(_table(model, _modular(task)))
    largest = shares[shares > threshold] if top is None else shares.sort(descending=True).values[:top]
    numbers = torch.stack([largest.sum(), largest.new_tensor(len(largest))])
    return labelled(numbers, ["quantity"], {"quantity": ["share", "count"]})


@register_measure("neuron_frequencies")
def neuron_frequencies(
    model: HookedModel, task: Task, seed: int, *, layer: int = 0, threshold: float = 0.85
) -> xr.DataArray:
    """Whether single neurons, at `=`, are waves of one frequency.

    Args:
        model: A Transformer with MLPs.
        task: Modular addition.
        seed: Not used.
        layer: The MLP's.
        threshold: A neuron counts as explained if its best frequency explains more than this share of its variance.

    Returns:
        Dimension quantity: `explained`, the share of neurons that are; `mean`, over neurons, of what the best frequency
        explains. A neuron that does not vary is not explained, and left out of the mean.

    Source: Nanda et al. 2023, section 4.3 (published: 84.6% of neurons above 85%). See
    `attribution.fourier.neuron_spectrum`.
    """
    task = _modular(task)
    hook = Site("mlp_post", layer).hook
    post = record(model, on_model(task.table().inputs, model), [hook])[1][hook]
    best = fourier.neuron_spectrum(post[:, -1].detach().cpu().unflatten(0, (task.p, task.p))).amax(0)
    numbers = [(best > threshold).double().mean(), best.nanmean()]
    return labelled(torch.stack(numbers), ["quantity"], {"quantity": ["explained", "mean"]})


@register_measure("embedding_losses")
def embedding_losses(model: nn.Module, task: Task, seed: int, *, threshold: float = 0.05) -> xr.DataArray:
    """Loss over the whole table when the residues' embeddings hold only a few frequencies, or all but these.

    Restricted and excluded loss change what the model says; this changes what it reads, and lets it compute.

    Args:
        model: A Transformer.
        task: Modular addition.
        seed: Not used.
        threshold: The frequencies are those with more than this share of the embeddings' variance over residues. (A
            frequency with little of the logits' variance may be needed all the same: logits are multiplied up.)

    Returns:
        Dimensions embedding (`full`, `restricted`, `excluded`), group (`train`, `test`), in nats. Both ablations keep
        the mean embedding.
    """
    task, model = _modular(task), as_transformer(model, "another embedding needs")
    batch = task.table()
    groups = task.groups(batch)
    whole = model.W_E.detach()[: task.p]
    keys = [int(k) + 1 for k in (fourier.embedding_spectrum(whole) > threshold).nonzero().flatten()]
    restricted = fourier.restricted_embedding(whole, keys)
    tables = (whole, restricted, whole - restricted + whole.mean(0))
    losses = [task.loss(_with_embedding(model, batch.inputs, table), batch) for table in tables]
    rows = torch.stack([torch.stack([loss[mask].mean() for mask in groups.values()]) for loss in losses])
    coords = {"embedding": ["full", "restricted", "excluded"], "group": list(groups)}
    return labelled(rows, ["embedding", "group"], coords, frequencies=", ".join(map(str, keys)))


def _with_embedding(model: Transformer, inputs: Tensor, table: Tensor) -> Tensor:
    """The output when residues are embedded by another table; `=` keeps its own embedding."""
    inputs = on_model(inputs, model)

    def swap(embedded: Tensor) -> Tensor:
        return torch.cat([table[inputs[:, :-1]], embedded[:, -1:]], 1)

    return run_edited(model, inputs, {Site("embed").hook: swap}).cpu()


def _modular(task: Task) -> ModularAddition:
    if not isinstance(task, ModularAddition):
        raise UnsupportedError(f"this is defined for modular addition, and the task is '{task.name}'")
    return task


def _table(model: nn.Module, task: ModularAddition) -> Tensor:
    """The logits at `=` of the whole table, `[a, b, answer]`."""
    with quiet(model):
        logits = model(on_model(task.table().inputs, model)).cpu()
    return logits[:, -1].view(task.p, task.p, task.p)

"""Which edges a compiled program truly has, and which of them each exam can see: argued, and measured.

An edge is *drawn* if its source writes to a subspace that its reader reads. It is *true* if moreover some direction is
written and read with weights that are not zero (q and k taken together, as v and the output are), it lies on a path of
such edges to the output, and it matters: patching it alone, with zero or with the mean over examples and positions,
changes an output of some sequence.

How the value on a true edge varies says which exams can see it. Every variable of a program varies with the tokens, or
with the position alone (in sequences of one length, which all start with the same token), or not at all. Where its
reader's function does not depend on a variable, the variable only says that here is a word and not the starting token,
so what is read varies with the position. Then patching with another input's value, or with the mean over examples,
shows what varies with the tokens; the mean over examples and positions what varies with the position too; zero shows
every true edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from tracr.compiler import assemble, nodes
from tracr.craft import transformers
from tracr.rasp import rasp

from mechinterp.core import Batch, Circuit, Pair
from mechinterp.known.compiled.programs import Program
from mechinterp.known.ground_truth import WAYS
from mechinterp.models import Transformer
from mechinterp.patching import patch_edges

VARIES = ("never", "position", "tokens")
SHOWS = {"resample": "tokens", "mean": "tokens", "mean-pos": "position", "zero": "never"}
"""What varies least of all that an ablation shows."""
START, ONE = "tokens:compiler_bos", "one"
UNSEEN = 1e-9
"""An effect is a sum of squared differences between outputs of size 1, in double precision. Measured: what is seen is
above 0.02 and what is not below 1e-28; anything between serves. The files keep both numbers."""
Edges = dict[str, dict[str, Any]]
Labels = frozenset[str]


@dataclass(frozen=True)
class Compiled:
    """A program as it comes out of the compiler.

    Args:
        graph: Its variables; each node has an expression, its possible values and the block that computes it.
        sink: The output's node.
        craft: The blocks in order.
        assembled: Weights, and the names of the residual stream's directions.
    """

    graph: nx.DiGraph
    sink: Any
    craft: transformers.SeriesWithResiduals
    assembled: assemble.AssembledTransformerModel


@dataclass(frozen=True)
class Port:
    """Where a component reads: the directions it reads, and the variables it computes from them."""

    reads: Labels
    makes: tuple[Any, ...]


def drawn_edges(compiled: Compiled, plain: Transformer, program: Program) -> tuple[Edges, float, float]:
    """Every drawn edge with the variables that it carries, how they vary, and why it is not true.

    Returns:
        Edge -> `carries`, `varies`, `not_true` (None if it is); the smallest effect of a true edge; the largest of any
        other edge.
    """
    writes, ports = _layout(compiled)
    wrote, read = _weights(plain)
    labels, found = compiled.assembled.residual_labels, {}
    for edge in plain.config.graph("split").edges:
        source, reader = str(edge.source), str(edge.reader)
        if not (writes.get(source, frozenset()) & (ports[reader].reads if reader in ports else frozenset())):
            continue
        along = [label for label, used in zip(labels, wrote[source] & read[reader], strict=True) if used]
        varies = [_varies_for(compiled, label, reader, ports[reader]) for label in along]
        reason = None if along else "its weights multiply to zero"
        carries = list(dict.fromkeys(_variable(label) for label in along))
        found[str(edge)] = {"carries": carries, "varies": _most(varies, "never"), "not_true": reason}
    fed = Circuit([edge for edge, one in found.items() if one["not_true"] is None], "split").pruned()
    sizes = _sizes(plain, _every_output(program), ("zero", "mean-pos"), "noise")
    for edge, one in found.items():
        if one["not_true"] is None and edge not in fed:
            one["not_true"] = "no path to the output"
        elif one["not_true"] is None and sizes[edge] < UNSEEN:
            one["not_true"] = "never changes an output"
    true = {edge for edge, one in found.items() if one["not_true"] is None}
    return found, min(sizes[edge] for edge in true), max(size for edge, size in sizes.items() if edge not in true)


def argued(found: Edges) -> dict[str, list[str]]:
    """Exam -> the true edges that it can see, from how the values on them vary."""
    true = {edge: VARIES.index(one["varies"]) for edge, one in found.items() if one["not_true"] is None}
    return {
        f"{ablation}, {way}": [edge for edge, varies in true.items() if varies >= VARIES.index(SHOWS[ablation])]
        for ablation, way in WAYS
    }


def measured(plain: Transformer, program: Program) -> tuple[dict[str, list[str]], float, float]:
    """The same by exact patching of 1,024 pairs; the smallest effect that is seen; the largest that is not."""
    seen, effects = {}, []
    for ablation, way in WAYS:
        sizes = _sizes(plain, [program.pair(256, seed) for seed in range(4)], (ablation,), way)
        seen[f"{ablation}, {way}"] = [edge for edge, size in sizes.items() if size >= UNSEEN]
        effects += sizes.values()
    return seen, min(e for e in effects if e >= UNSEEN), max(e for e in effects if e < UNSEEN)


def _sizes(plain: Transformer, pairs: Iterable[Pair], ablations: tuple[str, ...], way: str) -> dict[str, float]:
    """Largest effect of every edge on the squared distance of some example's outputs."""
    largest: dict[str, float] = {}
    for pair, ablation in itertools.product(pairs, ablations):
        effect = (
            np.abs(patch_edges(plain, pair, direction=way, ablation=ablation, metric="mse", inputs="split")["effect"])
            .max("example")
            .to_series()
        )
        largest = {edge: max(float(effect[edge]), largest.get(edge, 0.0)) for edge in effect.index}
    return largest


def _every_output(program: Program) -> list[Pair]:
    """Up to 400 sequences of each length, scored at every word."""
    pairs = []
    for length in range(1, program.length + 1):
        words = program.sequences(length)
        chosen = np.random.default_rng(length).permutation(len(words))[:400]
        inputs, targets = (make([words[i] for i in chosen]) for make in (program.inputs, program.targets))
        batch = Batch(inputs, targets, inputs > 0)
        pairs.append(Pair(batch, batch))
    return pairs


def _weights(plain: Transformer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Source -> the directions it writes, and reader -> the directions it reads, bool `[d_model]`."""

    def some(matrix: Any, axis: int) -> np.ndarray:
        return (matrix != 0).any(axis).detach().numpy()

    wrote = {"embed": some(plain.W_E, 0), "pos": some(plain.W_pos, 0)}
    read = {"logits": some(plain.W_U, 1)}
    for layer, block in enumerate(plain.blocks):
        for head in range(plain.config.n_heads):
            q, k, v, o = (getattr(block.attn, f"W_{name}")[head] for name in "QKVO")
            name = f"L{layer}.H{head}"
            wrote[name] = some(v @ o, 0)
            read |= {f"{name}.q": some(q @ k.T, 1), f"{name}.k": some(q @ k.T, 0), f"{name}.v": some(v @ o, 1)}
        if block.has_mlp:
            wrote[f"L{layer}.mlp"] = some(block.mlp.W_out, 0)
            used = (block.mlp.W_out != 0).any(1)
            read[f"L{layer}.mlp"] = some(block.mlp.W_in[:, used], 1)
    return wrote, read


def _layout(compiled: Compiled) -> tuple[dict[str, Labels], dict[str, Port]]:
    """Source -> the subspace it writes, and reader -> the subspace it reads and what it computes from it."""
    labels = compiled.assembled.residual_labels
    made = [node for node in compiled.graph.nodes.values() if node.get(nodes.MODEL_BLOCK) is not None]
    writes = {
        "embed": frozenset(label for label in labels if label.startswith("tokens:") or label == ONE),
        "pos": frozenset(label for label in labels if label.startswith("indices:")),
    }
    ports = {"logits": Port(_names(compiled.sink[nodes.OUTPUT_BASIS]), ())}
    _, modules = assemble._get_model_config_and_module_names(compiled.craft)
    for module, block in zip(modules, compiled.craft.blocks, strict=True):
        layer = module.split("/")[1].removeprefix("layer_")
        if isinstance(block, transformers.MLP):
            name, written = f"L{layer}.mlp", _names(block.snd.output_space.basis)
            makes = tuple(node for node in made if _mlp(node) and _names(node[nodes.OUTPUT_BASIS]) <= written)
            writes[name], ports[name] = written, Port(_names(block.fst.input_space.basis), makes)
            continue
        for i, head in enumerate(block.as_multi().heads()):
            name, makes = f"L{layer}.H{i}", tuple(node for node in made if _head(node) is head)
            writes[name] = _names(head.w_ov.output_space.basis)
            spaces = {"q": head.w_qk.left_space, "k": head.w_qk.right_space, "v": head.w_ov.input_space}
            ports |= {f"{name}.{kind}": Port(_names(space.basis), makes) for kind, space in spaces.items()}
    return writes, ports


def _head(node: Any) -> Any:
    block = node[nodes.MODEL_BLOCK]
    return block.blocks[0] if isinstance(block, transformers.SeriesWithResiduals) else block


def _mlp(node: Any) -> bool:
    return isinstance(node[nodes.MODEL_BLOCK], transformers.MLP | transformers.SeriesWithResiduals)


def _names(basis: Iterable[Any]) -> Labels:
    return frozenset(str(direction) for direction in basis)


def _variable(label: str) -> str:
    """A direction's variable, by the name that the program gives it."""
    if label == START:
        return "start"
    name, width, _ = label.partition(":")[0].partition("_selector_width")
    name = name.rstrip("0123456789").rstrip("_") if label != ONE else ONE
    return f"1 / ({name} + 1)" if width else name


def _varies_for(compiled: Compiled, label: str, reader: str, port: Port) -> str:
    """How what a reader takes along one direction varies."""
    if label in (ONE, START):
        return "never" if label == ONE else "position"
    for node in compiled.graph.nodes.values():
        expr = node[nodes.EXPR]
        if label == f"{expr.label}_selector_width_attn_output":
            return _varies(compiled, expr)
        if nodes.OUTPUT_BASIS in node and label in _names(node[nodes.OUTPUT_BASIS]):
            asked = [part for made in port.makes for part in _arguments(compiled, made[nodes.EXPR], reader[-1])]
            needed = not port.makes or any(argument is expr for argument, matters in asked if matters)
            return _varies(compiled, expr) if needed else "position"
    raise LookupError(f"no variable is written to {label}")


def _varies(compiled: Compiled, expr: Any) -> str:
    """How a variable varies, by what it is computed from."""
    if isinstance(expr, rasp.TokensType | rasp.IndicesType):
        return "tokens" if isinstance(expr, rasp.TokensType) else "position"
    # At the starting token it is zero, so it varies with the position at the least.
    parts = [part for kind in "qkvp" for part in _arguments(compiled, expr, kind)]
    return _most([_varies(compiled, argument) for argument, matters in parts if matters], "position")


def _arguments(compiled: Compiled, expr: Any, kind: str) -> list[tuple[Any, bool]]:
    """What an expression takes by a head's `q`, `k` or `v`, or by an ML`p`, and whether its value depends on it."""

    def values(argument: Any) -> list[Any]:
        return list(compiled.graph.nodes[argument.label][nodes.VALUE_SET])

    def depends(function: Callable[..., Any], first: Any, second: Any) -> tuple[bool, bool]:
        table = np.array([[repr(function(a, b)) for b in values(second)] for a in values(first)])
        return bool((table != table[:1]).any()), bool((table != table[:, :1]).any())

    if isinstance(expr, rasp.Aggregate | rasp.SelectorWidth):
        select = expr.selector
        on_key, on_query = depends(select.predicate, select.keys, select.queries)
        found = {"q": [(select.queries, on_query)], "k": [(select.keys, on_key)]}
        return (found | ({"v": [(expr.sop, True)]} if isinstance(expr, rasp.Aggregate) else {})).get(kind, [])
    if kind != "p" or not isinstance(expr, rasp.Map | rasp.SequenceMap):
        return []
    if isinstance(expr, rasp.Map):
        return [(expr.inner, len({repr(expr.f(value)) for value in values(expr.inner)}) > 1)]
    on_first, on_second = depends(expr.f, expr.fst, expr.snd)
    return [(expr.fst, on_first), (expr.snd, on_second)]


def _most(varies: Iterable[str], least: str) -> str:
    return max([least, *varies], key=VARIES.index)

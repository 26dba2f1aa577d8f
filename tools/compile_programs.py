"""Compile RASP programs to weights: writes everything in src/mechinterp/known/compiled/weights anew.

    python -m venv .venv-compiling
    .venv-compiling/bin/pip install -c constraints.txt -e '.[compiled]'
    .venv-compiling/bin/python tools/compile_programs.py

Needs tracr (with JAX and Haiku, versions in constraints.txt); nothing else of the project does. The files come out the
same to the last bit each time.

Two things differ from what tracr's own `compile_rasp_to_model` runs. Weights stay in double precision, since a value
such as 1/3 that is rounded to single precision is magnified a hundredfold by the MLPs that look it up. And attention
is as cold as the compiler means it: tracr writes logits of 100 into the weights, then its attention divides them by
sqrt(d_head), which leaves 1e-7 of the attention where none should be. Our `attn_scale` takes that division back.

One thing to know before adding a program: tracr takes the mean of n zeros and ones for 0 or 1/m, never 2/3, so its
lookup of a mean is wrong between 1/2 and 1 unless the function is a threshold. Every output is checked here.
"""

# ruff: noqa: D101, D103 - a program's source ships as it stands here

from __future__ import annotations

import inspect
import json
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from compiled_edges import Compiled, argued, drawn_edges, measured
from safetensors.torch import save_file
from tracr.compiler import (
    assemble,
    basis_inference,
    craft_graph_to_model,
    craft_model_to_transformer,
    expr_to_craft_graph,
    nodes,
    rasp_to_graph,
)
from tracr.craft import bases
from tracr.rasp import causal_eval, rasp

from mechinterp.known.compiled.programs import Program
from mechinterp.models import ModelConfig, Transformer

OUT = Path(__file__).parents[1] / "src/mechinterp/known/compiled/weights"
BOS, PAD = "compiler_bos", "compiler_pad"


def reverse() -> rasp.SOp:
    length = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)).named("length")
    opposite = rasp.SequenceMap(lambda n, i: n - i - 1, length, rasp.indices).named("opposite")
    return rasp.Aggregate(rasp.Select(rasp.indices, opposite, rasp.Comparison.EQ), rasp.tokens).named("reverse")


def sort() -> rasp.SOp:
    keys = rasp.SequenceMap(lambda token, i: token + i / 8, rasp.tokens, rasp.indices).named("keys")
    place = rasp.SelectorWidth(rasp.Select(keys, keys, rasp.Comparison.LT)).named("place")
    return rasp.Aggregate(rasp.Select(place, rasp.indices, rasp.Comparison.EQ), rasp.tokens).named("sort")


def histogram() -> rasp.SOp:
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)).named("histogram")


def duplicates() -> rasp.SOp:
    count = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)).named("count")
    return rasp.Map(lambda n: n > 1, count).named("duplicates")


def induction() -> rasp.SOp:
    shifted = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    previous = rasp.Aggregate(shifted, rasp.tokens).named("previous")
    followed = rasp.Select(previous, rasp.tokens, lambda key, query: key == query)
    return rasp.Aggregate(followed, rasp.tokens).named("induction")


def fraction_previous() -> rasp.SOp:
    is_x = rasp.numerical(rasp.Map(lambda token: float(token == "x"), rasp.tokens)).named("is_x")
    so_far = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
    return rasp.numerical(rasp.Aggregate(so_far, is_x, default=0)).named("fraction_previous")


def pair_balance() -> rasp.SOp:
    so_far = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
    opening = rasp.numerical(rasp.Map(lambda token: float(token == "("), rasp.tokens)).named("opening")
    closing = rasp.numerical(rasp.Map(lambda token: float(token == ")"), rasp.tokens)).named("closing")
    opened = rasp.numerical(rasp.Aggregate(so_far, opening, default=0)).named("opened")
    closed = rasp.numerical(rasp.Aggregate(so_far, closing, default=0)).named("closed")
    return rasp.numerical(rasp.LinearSequenceMap(opened, closed, 1, -1)).named("pair_balance")


def dyck_1() -> rasp.SOp:
    opening = rasp.numerical(rasp.Map(lambda token: float(token == "("), rasp.tokens)).named("opening")
    closing = rasp.numerical(rasp.Map(lambda token: float(token == ")"), rasp.tokens)).named("closing")
    so_far = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
    everywhere = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.TRUE)
    opened = rasp.numerical(rasp.Aggregate(so_far, opening, default=0)).named("opened")
    below = rasp.numerical(rasp.Map(lambda share: float(share < 0.5), opened)).named("below")
    ever_below = rasp.numerical(rasp.Aggregate(everywhere, below, default=0)).named("ever_below")
    closed = rasp.numerical(rasp.Aggregate(everywhere, closing, default=0)).named("closed")
    unclosed = rasp.numerical(rasp.Map(lambda share: float(share < 0.5), closed)).named("unclosed")
    wrong = rasp.numerical(rasp.LinearSequenceMap(ever_below, unclosed, 1, 1)).named("wrong")
    return rasp.Map(lambda x: x == 0, wrong).named("dyck_1")


@dataclass(frozen=True)
class Recipe:
    build: Callable[[], rasp.SOp]
    vocabulary: tuple[Any, ...]
    length: int
    causal: bool = False


RECIPES = (
    Recipe(reverse, ("a", "b", "c"), 5),
    Recipe(sort, (1, 2, 3), 5),
    Recipe(histogram, ("a", "b", "c", "d"), 5),
    Recipe(duplicates, ("a", "b", "c", "d"), 5),
    Recipe(induction, ("a", "b", "c", "d"), 6, causal=True),
    Recipe(fraction_previous, ("x", "y", "z"), 6),
    Recipe(pair_balance, ("(", ")", "x"), 6),
    Recipe(dyck_1, ("(", ")"), 6),
)


HIDDEN: dict[str, dict[str, dict[str, str]]] = {
    "reverse": {
        "zero, noise": {
            "embed->L0.H0.q": "a query of zero attends evenly, as the selector of everything does",
            "embed->L0.H0.v": "the head then writes 0, and the MLP takes that for 1/6: right in the longest sequences",
            "L0.H0->L0.mlp": "the MLP takes 0 for 1/6: right in the longest sequences",
        },
        "mean-pos, noise": {
            "embed->L0.H0.v": "attention is even over all positions, and gives the mean whatever stands where",
            "embed->L0.mlp": "a sixth of what clears the starting token is subtracted from every word: too little",
            "L0.mlp->L1.mlp": "5/6 of a one-hot length still wins every later comparison",
        },
    },
    "induction": {
        "zero, noise": {
            "embed->L0.H0.q": "shows at the first word alone, whose output is always nothing, so it is not scored",
            "embed->L0.H0.k": "shows at the first word alone, whose output is always nothing, so it is not scored",
        },
        "mean-pos, noise": {
            "embed->L0.H0.k": "shows at the first word alone, whose output is always nothing, so it is not scored",
        },
    },
    "dyck_1": {
        "mean-pos, noise": {
            "pos->L1.H0.q": "a query that selects everything does so at 6/7 of its strength too",
            "pos->L2.H0.q": "a query that selects everything does so at 6/7 of its strength too",
        },
    },
}
"""Edges that an exam cannot see although their source differs, and why. `main` stops if patching disagrees."""


def main() -> None:
    """Write the weights and the description of every program."""
    jax.config.update("jax_enable_x64", True)
    OUT.mkdir(parents=True, exist_ok=True)
    for recipe in RECIPES:
        program, plain, compiled = made(recipe)
        edges, smallest_true, largest_other = drawn_edges(compiled, plain, program)
        true = {edge: one for edge, one in edges.items() if one["not_true"] is None}
        seen, smallest_seen, largest_unseen = measured(plain, program)
        hidden = HIDDEN.get(program.name, {})
        differ = argued(edges)
        for exam, could in differ.items():
            expected = [edge for edge in could if edge not in hidden.get(exam, {})]
            if set(seen[exam]) != set(expected) or not set(hidden.get(exam, {})) <= set(could):
                raise SystemExit(f"{program.name}, {exam}: patching sees {seen[exam]}, expected {expected}")
        gap = {"smallest_true": smallest_true, "largest_other": largest_other}
        gap |= {"smallest_seen": smallest_seen, "largest_unseen": largest_unseen}
        description = {
            "says": program.says,
            "rasp": program.rasp,
            "vocabulary": program.vocabulary,
            "outputs": program.outputs,
            "length": program.length,
            "model": plain.config.model_dump(exclude_defaults=True),
            "edges": {edge: {"carries": one["carries"], "varies": one["varies"]} for edge, one in true.items()},
            "drawn_but_not_true": {edge: one["not_true"] for edge, one in edges.items() if one["not_true"]},
            "differs": differ,
            "hidden": hidden,
            "seen": seen,
            "effects": gap,
        }
        (OUT / f"{program.name}.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        weights = OUT / f"{program.name}.safetensors"
        save_file({key: value.contiguous() for key, value in plain.state_dict().items()}, weights)
        weights.chmod(0o644)
        print(f"{program.name}: {len(true)} of {len(plain.config.graph('split').edges)} edges, effects {gap}")


def made(recipe: Recipe) -> tuple[Program, Transformer, Compiled]:
    """Compile one program, load its weights, and hold both to what the program says."""
    name, sop = recipe.build.__name__, recipe.build()
    extracted = rasp_to_graph.extract_rasp_graph(sop)
    basis_inference.infer_bases(extracted.graph, extracted.sink, set(recipe.vocabulary), recipe.length)
    expr_to_craft_graph.add_craft_components_to_rasp_graph(
        extracted.graph, bos_dir=bases.BasisDirection(rasp.tokens.label, BOS)
    )
    craft = craft_graph_to_model.craft_graph_to_model(extracted.graph, extracted.sources)
    assembled = craft_model_to_transformer.craft_model_to_transformer(
        craft_model=craft, graph=extracted.graph, sink=extracted.sink, max_seq_len=recipe.length,
        causal=recipe.causal, compiler_bos=BOS, compiler_pad=PAD,
    )  # fmt: skip
    output = extracted.sink[nodes.OUTPUT_BASIS]
    outputs = tuple(direction.value for direction in output) if rasp.is_categorical(sop) else None
    source = textwrap.dedent(inspect.getsource(recipe.build))
    program = Program(name, source, recipe.vocabulary, outputs, recipe.length)
    plain = loaded(assembled, [str(direction) for direction in output], recipe)
    evaluate = causal_eval.evaluate if recipe.causal else rasp.evaluate
    for length in range(1, recipe.length + 1):
        sequences = program.sequences(length)
        error = (plain(program.inputs(sequences)) - program.targets(sequences))[:, 1:].abs().max()
        if error > 1e-12:
            raise SystemExit(f"{name}: outputs differ from the program's by {error}")
        for words in sequences[::20]:
            for wanted, got in zip(program.run(words), evaluate(sop, list(words)), strict=True):
                if wanted != got and (wanted is None or abs(wanted - got) > 1e-12):
                    raise SystemExit(f"{name}{words}: RASP gives {got}, the reference {wanted}")
    return program, plain, Compiled(extracted.graph, extracted.sink, craft, assembled)


@torch.no_grad()
def loaded(assembled: assemble.AssembledTransformerModel, output: list[str], recipe: Recipe) -> Transformer:
    """The compiled weights in a Transformer, the starting token as token 0."""
    params = {
        f"{module}.{leaf}".replace("transformer/", ""): torch.tensor(np.asarray(weight), dtype=torch.float64)
        for module, leaves in assembled.params.items()
        for leaf, weight in leaves.items()
    }
    heads, d_head = assembled.model_config.num_heads, assembled.model_config.key_size
    layers, labels = range(assembled.model_config.num_layers), assembled.residual_labels
    if any(bool(params[name].any()) for name in params if name.endswith(".b")):
        raise SystemExit("the compiler wrote biases")
    mlp = any(bool(params[f"layer_{layer}/mlp/linear_2.w"].any()) for layer in layers)
    config = ModelConfig(
        n_layers=len(layers), n_heads=heads, d_model=len(labels), d_head=d_head,
        d_mlp=assembled.model_config.mlp_hidden_size if mlp else 0, d_vocab=len(recipe.vocabulary) + 1,
        n_ctx=recipe.length + 1, outputs="values", d_out=len(output), normalization="none", causal=recipe.causal,
        attn_bias=False, attn_scale=math.sqrt(d_head),
    )  # fmt: skip
    model, rows = Transformer(config).double(), assembled.input_encoder.encoding_map
    model.embed.W_E.copy_(params["token_embed.embeddings"][[rows[word] for word in (BOS, *recipe.vocabulary)]])
    model.pos_embed.W_pos.copy_(params["pos_embed.embeddings"])
    for layer, block in zip(layers, model.blocks, strict=True):
        for name, leaf in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V")):
            weight = params[f"layer_{layer}/attn/{name}.w"].unflatten(1, (heads, d_head)).transpose(0, 1)
            getattr(block.attn, leaf).copy_(weight)
        block.attn.W_O.copy_(params[f"layer_{layer}/attn/linear.w"].unflatten(0, (heads, d_head)))
        if mlp:
            block.mlp.W_in.copy_(params[f"layer_{layer}/mlp/linear_1.w"])
            block.mlp.W_out.copy_(params[f"layer_{layer}/mlp/linear_2.w"])
    model.unembed.W_U.copy_(torch.tensor([[float(a == b) for b in output] for a in labels]))
    return model


if __name__ == "__main__":
    main()

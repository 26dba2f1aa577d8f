"""Open a compiled program as a model with a known circuit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch
from safetensors.torch import load_file

from mechinterp.core import Circuit, ConfigError, Edge, suggest
from mechinterp.known.compiled.programs import CORRUPTION, Program, Symbol, Word
from mechinterp.known.ground_truth import WAYS, KnownModel, conceal
from mechinterp.models.config import ModelConfig
from mechinterp.models.transformer import Transformer

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, eq=False, kw_only=True)
class CompiledModel(KnownModel):
    """A compiled program: a model, its true circuit, pairs, and the program that its outputs are held to.

    Args:
        program: What it computes (`says`, `rasp`), on which words; `program.inputs(sequences)` and
            `program.targets(sequences)` write them for the model.
        carries: True edge -> the variables of the program that it carries; `one` is always 1, `start` marks the
            starting token.
        not_true: Edge that the compiler draws -> why it is not in the circuit all the same.
    """

    program: Program
    carries: Mapping[Edge, tuple[str, ...]]
    not_true: Mapping[Edge, str]

    def run(self, tokens: Sequence[Word]) -> list[Symbol]:
        """What the program puts out, one value per word, in plain Python.

        Raises:
            ConfigError: If a word is not in the vocabulary, or the program does not take the sequence.
        """
        return self.program.run(tokens)


def compiled_model(
    name: str, rotate: bool = True, inert_heads: int = 0, dtype: torch.dtype = torch.float64, seed: int = 0
) -> CompiledModel:
    """A RASP program compiled to weights, rotated and padded with inert heads.

    Outputs are values, one-hot over `program.outputs` or one number, so the metric is squared distance. The circuit is
    the compiler's graph, without wires whose weights multiply to zero and without those that never change an output.

    Args:
        name: One of `compiled_names()`.
        rotate: Whether to rotate the residual stream by a random orthogonal matrix.
        inert_heads: Heads added to each layer; they read everything and write where nothing reads.
        dtype: float64 where exactness is asserted.
        seed: Of the rotation, the inert weights and the places of the true heads.

    Raises:
        ConfigError: If there is no such program.

    Source: Lindner et al. 2023 (tracr) compiled the weights; `tools/compile_programs.py` regenerates them.

    >>> made = compiled_model("reverse")
    >>> made.run(["a", "b", "c"]), len(made.circuit), len(made.seen("resample"))
    (['c', 'b', 'a'], 11, 2)
    """
    if name not in compiled_names():
        raise ConfigError(f"no compiled program '{name}'.{suggest(name, compiled_names())}")
    data = _read(name)
    plain = Transformer(ModelConfig.model_validate(data["model"])).to(dtype)
    plain.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    model, moved = conceal(plain, inert_heads, rotate, seed)
    program = compiled_program(name)
    exams = {
        (ablation, CORRUPTION, way): Circuit([moved(edge) for edge in data["seen"][f"{ablation}, {way}"]], "split")
        for ablation, way in WAYS
    }
    return CompiledModel(
        model=model,
        circuit=Circuit([moved(edge) for edge in data["edges"]], "split"),
        pair=program.pair,
        exams=exams,
        metric="mse",
        program=program,
        carries={moved(edge): tuple(one["carries"]) for edge, one in data["edges"].items()},
        not_true={moved(edge): reason for edge, reason in data["drawn_but_not_true"].items()},
    )


@cache
def compiled_program(name: str) -> Program:
    """The program alone, without its weights."""
    data = _read(name)
    outputs = None if data["outputs"] is None else tuple(data["outputs"])
    return Program(name, data["rasp"], tuple(data["vocabulary"]), outputs, data["length"])


def compiled_names() -> list[str]:
    """Names of the programs that ship with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


class _Carried(TypedDict):
    carries: list[str]


class _Archive(TypedDict):
    """What is written beside a program's weights, as far as it is read here."""

    rasp: str
    vocabulary: list[Word]
    outputs: list[Symbol] | None
    length: int
    model: dict[str, object]
    edges: dict[str, _Carried]
    drawn_but_not_true: dict[str, str]
    seen: dict[str, list[str]]


def _read(name: str) -> _Archive:
    return json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))

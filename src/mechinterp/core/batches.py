"""What goes into a model and what should come out: `Batch`, and `Pair` for interventions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from mechinterp.core.errors import ConfigError, ShapeError, SiteError, suggest
from mechinterp.core.protocols import TaskLike


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs, right answers and where they are scored.

    Args:
        inputs: Tokens `[batch, seq]` (integers) or vectors `[batch, seq, d_in]` (floats).
        targets: Right output at each position: tokens `[batch, seq]` or vectors `[batch, seq, d_out]`.
        scored: Which positions count, bool `[batch, seq]`.
        wrong: The answer that a corrupted run would give, `[batch, seq]`; needed by `logit_diff`.
        roles: Name -> position `[batch]` in each example, -1 where the role is absent.
        latents: Name -> hidden variable `[batch, seq]`; integers are classes (-1 undefined), floats are values (NaN).

    Raises:
        ShapeError: If shapes do not fit each other.
    """

    inputs: Tensor
    targets: Tensor
    scored: Tensor
    wrong: Tensor | None = None
    roles: Mapping[str, Tensor] = field(default_factory=dict)
    latents: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.inputs.ndim not in (2, 3):
            raise ShapeError(f"inputs are [batch, seq] or [batch, seq, d_in], got {list(self.inputs.shape)}")
        lead = self.inputs.shape[:2]
        parts = {"targets": self.targets, "scored": self.scored, "wrong": self.wrong}
        parts |= {f"latents['{name}']": value for name, value in self.latents.items()}
        for name, value in parts.items():
            if value is not None and value.shape[:2] != lead:
                shapes = f"{name} is {list(value.shape)}, inputs are {list(self.inputs.shape)}"
                raise ShapeError(f"{shapes}: [batch, seq] differ")
        if self.scored.dtype != torch.bool:
            raise ShapeError(f"scored is a boolean mask, got {self.scored.dtype}")
        for name, value in self.roles.items():
            if value.shape != lead[:1]:
                raise ShapeError(f"roles['{name}'] is {list(value.shape)}, expected [{lead[0]}]")
            if value.numel() and (int(value.min()) < -1 or int(value.max()) >= lead[1]):
                raise ShapeError(f"roles['{name}'] has positions outside -1..{lead[1] - 1}")

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def seq_len(self) -> int:
        """Positions per example."""
        return self.inputs.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.inputs.device

    def role(self, name: str) -> Tensor:
        """Position of a role in each example, `[batch]`, -1 where absent.

        Raises:
            SiteError: If the batch has no such role.
        """
        if name not in self.roles:
            raise SiteError(f"no role '{name}' in this batch.{suggest(name, self.roles)}")
        return self.roles[name]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """A copy on another device; `dtype` changes floating-point inputs and targets only."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)

        return self._map(move)

    def __getitem__(self, index: slice | Tensor) -> Batch:
        """Some of the examples."""
        if not isinstance(index, slice | Tensor):
            raise ConfigError("index a batch with a slice, a boolean mask or a tensor of example numbers")
        return self._map(lambda value: value[index])

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """Batches one after the other; a role that one of them lacks is -1 there, latents are those that all have."""
        names = dict.fromkeys(name for batch in batches for name in batch.roles)
        latents = [name for name in batches[0].latents if all(name in batch.latents for batch in batches)]

        def role(batch: Batch, name: str) -> Tensor:
            absent = torch.full((len(batch),), -1, dtype=torch.long, device=batch.device)
            return batch.roles.get(name, absent)

        wrong = [batch.wrong for batch in batches if batch.wrong is not None]
        return cls(
            torch.cat([batch.inputs for batch in batches]),
            torch.cat([batch.targets for batch in batches]),
            torch.cat([batch.scored for batch in batches]),
            torch.cat(wrong) if len(wrong) == len(batches) else None,
            {name: torch.cat([role(batch, name) for batch in batches]) for name in names},
            {name: torch.cat([batch.latents[name] for batch in batches]) for name in latents},
        )

    def _map(self, change) -> Batch:
        changed = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = change(value)
            elif isinstance(value, Mapping):
                changed[item.name] = {name: change(part) for name, part in value.items()}
        return replace(self, **changed)

    def at_scored(self) -> tuple[Batch, Tensor, Tensor]:
        """Only the scored positions, packed to the left.

        Returns:
            The packed batch (`seq` is the largest number of scored positions in an example; roles and latents are
            left out), their positions `[batch, row]`, and which of them are real, bool `[batch, row]`.
        """
        count = self.scored.sum(1)
        rows = max(int(count.max()), 1) if len(self) else 1
        order = torch.argsort((~self.scored).to(torch.int8), dim=1, stable=True)[:, :rows]
        real = torch.arange(rows, device=self.device)[None] < count[:, None]

        def take(value: Tensor) -> Tensor:
            index = order if value.ndim == 2 else order[..., None].expand(-1, -1, value.shape[-1])
            return value.gather(1, index)

        wrong = None if self.wrong is None else take(self.wrong)
        return Batch(take(self.inputs), take(self.targets), real, wrong), order, real


@dataclass(frozen=True, eq=False)
class Pair:
    """A clean and a corrupted batch that differ only in what the circuit must read.

    Both score the same positions: those whose right answer the corruption changed. `clean.targets` is what a
    patched run is held to, in both directions.

    Args:
        clean: The examples.
        corrupted: The same examples, in which the circuit reads something else.
        corruption: The corruption of each example, by name; empty where it is not known.
        task: The task that the examples were drawn from; it knows the predictors that need no circuit.

    Raises:
        ShapeError: If the batches differ in shape or in scored positions, or not every example has its corruption.
    """

    clean: Batch
    corrupted: Batch
    corruption: tuple[str, ...] = ()
    task: TaskLike | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.clean.inputs.shape != self.corrupted.inputs.shape:
            a, b = list(self.clean.inputs.shape), list(self.corrupted.inputs.shape)
            raise ShapeError(f"clean inputs are {a}, corrupted {b}: a pair has equal shapes")
        if not torch.equal(self.clean.scored, self.corrupted.scored):
            raise ShapeError("clean and corrupted batch score different positions")
        empty = (~self.clean.scored.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ShapeError(f"{len(empty)} examples have no scored position (the first: {empty[0]})")
        if self.corruption and len(self.corruption) != len(self.clean):
            raise ShapeError(f"{len(self.corruption)} corruptions are named for {len(self.clean)} examples")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, index: slice | Tensor) -> Pair:
        """Some of the examples, clean and corrupted alike."""
        clean, corrupted = self.clean[index], self.corrupted[index]
        names: tuple[str, ...] = ()
        if self.corruption:
            chosen = np.array(self.corruption)[index if isinstance(index, slice) else index.cpu().numpy()]
            names = tuple(chosen.tolist())
        return Pair(clean, corrupted, names, self.task)

    @classmethod
    def join(cls, pairs: Sequence[Pair]) -> Pair:
        """Pairs one after the other; their task, where all are of one."""
        clean, corrupted = (Batch.join([getattr(pair, side) for pair in pairs]) for side in ("clean", "corrupted"))
        task = pairs[0].task if all(pair.task == pairs[0].task for pair in pairs) else None
        return cls(clean, corrupted, tuple(word for pair in pairs for word in pair.corruption), task)

    def with_corruption(self, corruption: str) -> Pair:
        """The same pair, all of whose examples are of one corruption."""
        return replace(self, corruption=(corruption,) * len(self))

    def by_corruption(self) -> dict[str, Pair]:
        """Corruption -> its examples, in order of appearance; one nameless part where it is not known."""
        if not self.corruption:
            return {"": self}
        names = np.array(self.corruption)
        return {str(name): self[torch.from_numpy(names == name)] for name in dict.fromkeys(self.corruption)}

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that depend on the inputs, clean and corrupted, and on nothing else.

        A circuit carries the fingerprint of the pair that it was found on, so that it is not judged on the same one.
        """
        digest = hashlib.sha256()
        for part in (self.clean.inputs, self.corrupted.inputs):
            digest.update(f"{part.dtype}{list(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Pair:
        """A copy on another device."""
        return replace(self, clean=self.clean.to(device, dtype), corrupted=self.corrupted.to(device, dtype))

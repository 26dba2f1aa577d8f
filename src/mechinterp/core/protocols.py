"""What the analyses need of a model and of a Run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

# Unlike `typing`'s before Python 3.12, these look members up without running properties, which may raise.
from typing_extensions import Protocol, runtime_checkable

if TYPE_CHECKING:
    from mechinterp.core.batches import Batch


@runtime_checkable
class HookedModel(Protocol):
    """A model with hook points: a `Transformer`, or a `TransformerBridge`."""

    training: bool

    @property
    def cfg(self) -> Any:
        """The architecture under TransformerLens's names."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """The output, with functions at some hook points."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All weights."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The output."""
        ...


@runtime_checkable
class RunLike(Protocol):
    """A history of training: checkpoints of one model on one task."""

    @property
    def path(self) -> Any:
        """The folder."""
        ...

    @property
    def steps(self) -> Sequence[int]:
        """Steps that have a checkpoint."""
        ...

    @property
    def task(self) -> Any:
        """The task it was trained on."""
        ...

    def model(self, step: Any = None) -> Any:
        """The model at a step; the last one by default."""
        ...


@runtime_checkable
class TaskLike(Protocol):
    """What a pair knows of the task it was drawn from: its loss, and what answers without a circuit."""

    @property
    def trivial(self) -> Sequence[str]:
        """Names of the predictors that answer without the circuit."""
        ...

    def predictors(self) -> Mapping[str, Callable[[Batch], Tensor]]:
        """Reference predictors by name."""
        ...

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Loss at every position, `[batch, seq]`."""
        ...

"""A GPU that is not there: torch's `FakeTensorMode`, which knows devices, with the values that it does not keep.

`FakeTensorMode` refuses an operation on tensors of two devices as a GPU would. It has no numbers, so whatever looks at
one (`item`, `nonzero`, `equal`, `numpy`) cannot run under it. Here each fake tensor has its value on the CPU too,
computed beside it; so the whole of an analysis runs, its result can be compared, and looks are counted: on a GPU each
waits for all that runs there.
"""

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

# Indexing and gradients need a device that torch was built for; without CUDA one that torch lets Python bring along.
DEVICE = "cuda:0" if torch.backends.cuda.is_built() else "gpu:0"
LOOKS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default, torch.ops.aten.nonzero.default)


def register() -> None:
    """Make the device known to torch, for the rest of this process."""
    if DEVICE == "gpu:0":
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

        _setup_privateuseone_for_python_backend("gpu")
    FakeTensor.numpy = _numpy


class FakeGPU(FakeTensorMode):
    """Inside `with`: tensors may be on a GPU; `looks` counts how often a value there was looked at."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.looks, self._inside = 0, False

    def dispatch(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._inside or func.namespace == "prim":  # what it is, and not what is in it
            return super().dispatch(func, types, args, kwargs)
        self._inside = True
        try:
            with _disable_current_modes():
                value = func(*tree_map(_value, args), **tree_map(_value, kwargs))
            on_gpu = any(isinstance(each, FakeTensor) and each.device.type != "cpu" for each in args)
            self.looks += func in LOOKS and on_gpu
            if not isinstance(value, torch.Tensor | tuple | list):
                return value
            try:
                if func is torch.ops.aten._to_copy.default and not isinstance(args[0], FakeTensor):
                    args = (self.from_tensor(args[0]), *args[1:])  # else it is copied as it is, on the device
                fake = super().dispatch(func, types, args, kwargs)
            except (DataDependentOutputException, DynamicOutputShapeException):
                with self:
                    fake = torch.empty(value.shape, dtype=value.dtype, device=args[0].device)
        finally:
            self._inside = False
        for one, its_value in zip(*map(_as_list, (fake, value)), strict=True):
            if isinstance(one, FakeTensor):
                assert one.shape == its_value.shape and one.dtype == its_value.dtype
                one.value, one.constant = its_value, None  # torch's own values of constants would run on the device
        return fake

    def moved(self, model: nn.Module) -> nn.Module:
        """A copy of a model whose weights are on the GPU."""
        model = copy.deepcopy(model)
        with self, torch.no_grad():
            for module in model.modules():
                for name, weight in module._parameters.items():
                    if weight is not None:
                        module._parameters[name] = nn.Parameter(weight.detach().to(DEVICE))
                for name, buffer in module._buffers.items():
                    module._buffers[name] = buffer.to(DEVICE)
        return model


def _numpy(tensor):
    assert tensor.device.type == "cpu"  # as torch asks of a tensor on a GPU
    with _disable_current_modes():
        return tensor.value.numpy()


def _as_list(values):
    return list(values) if isinstance(values, tuple | list) else [values]


def _value(argument):
    """What stands for an argument on the CPU."""
    if isinstance(argument, FakeTensor):
        return argument.value
    return torch.device("cpu") if isinstance(argument, torch.device) else argument

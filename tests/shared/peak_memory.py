"""How much memory tensors take at most, counted storage by storage."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class PeakMemory(TorchDispatchMode):
    """Inside `with`: `peak`, the most bytes that storages made here take at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._storages = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)}
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in known and storage._cdata not in self._storages:
                    self._hold(storage)
        return out

    def _hold(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self._storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key, size):
        self._storages.discard(key)
        self.now -= size

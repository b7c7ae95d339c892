"""A simulated GPU. Tensors that are moved to it stay in memory, but are marked as on the device.

Inside `pretended`, `x.to("cuda")` returns a marked copy, results of marked tensors are marked, and
their `device` is cuda. An operation that mixes marked and unmarked tensors raises, as on a real
GPU, and so does `numpy()`. Waits are counted: operations that block until the device has computed
a number.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
# Positions of a tensor may be in memory, and a copy goes from one device to the other.
MIXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
MIXED += (aten.copy_, aten._to_copy)
WAITS = (aten._local_scalar_dense, aten.nonzero, aten.masked_select)
WAITS += (aten._unique2, aten.unique_consecutive, aten.equal)
READS = ("numpy", "__array__", "data_ptr")


class Marks:
    """The storages that are on the device. They are kept alive, so that no address is reused."""

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}
        self.waits: Counter[str] = Counter()
        # Whether a function works on marked tensors; what it makes is marked then.
        self.inside = False

    def has(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is on the device."""
        return tensor.untyped_storage()._cdata in self.storages

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Put a tensor on the device."""
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage
        return tensor


class Operations(TorchDispatchMode):
    """Marks results, and refuses to mix devices."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [
            one
            for one in tree_flatten((args, kwargs))[0]
            if isinstance(one, torch.Tensor)
        ]
        marked = [one for one in tensors if self.marks.has(one)]
        others = [
            one for one in tensors if not self.marks.has(one) and one.dim()
        ]
        if marked and others and packet not in MIXED:
            raise RuntimeError(f"{func}: tensors of two devices")
        masked = packet in MIXED and any(
            one.dtype in (torch.bool, torch.uint8) for one in tensors[1:]
        )
        if marked and (packet in WAITS or masked):
            self.marks.waits[str(packet)] += 1
        result = func(*args, **kwargs)
        made = self.marks.inside and not tensors
        if packet in MIXED:
            marked = self.marks.has(tensors[0])
        if made or marked:
            tree_map_only(torch.Tensor, self.marks.add, result)
        return result


class Places(TorchFunctionMode):
    """Moves between the devices, and what asks where a tensor is."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        here = first is not None and self.marks.has(first)
        if func == torch.Tensor.device.__get__:
            return CUDA if here else CPU
        if func == torch.Tensor.is_cuda.__get__:
            return here
        if func is torch._C._nn._parse_to:
            return func(*args, **kwargs)
        if here and name in READS:
            raise TypeError(f"{name} of a tensor on the device")
        if func is torch.Tensor.cpu:
            func, args, kwargs = torch.Tensor.to, (first, CPU), {}
        given = [*args, kwargs.get("device")]
        wanted = [torch.device(one) for one in given if _is_device(one)]
        if not wanted:
            return self._call(func, args, kwargs)
        to_device = wanted[0].type == "cuda"
        args = tuple(CPU if _is_device(one) else one for one in args)
        if "device" in kwargs:
            kwargs["device"] = CPU
        if func is torch.Tensor.to:
            if to_device == here:
                return func(*args, **kwargs)
            if here:
                self.marks.waits["to memory"] += 1
            kwargs["copy"] = True
            kwargs.pop("non_blocking", None)
            moved = _unmarked(self.marks, func, args, kwargs)
        else:
            moved = func(*args, **kwargs)
        return self.marks.add(moved) if to_device else moved

    def _call(self, func, args, kwargs):
        before = self.marks.inside
        self.marks.inside = any(
            isinstance(one, torch.Tensor) and self.marks.has(one)
            for one in tree_flatten((args, kwargs))[0]
        )
        try:
            return func(*args, **kwargs)
        finally:
            self.marks.inside = before


def _is_device(one):
    named = isinstance(one, str) and one.split(":")[0] in ("cpu", "cuda")
    return named or isinstance(one, torch.device)


def _unmarked(marks, func, args, kwargs):
    """A copy that `Operations` does not mark."""
    with torch.utils._python_dispatch._disable_current_modes():
        return func(*args, **kwargs)


@contextlib.contextmanager
def pretended() -> Iterator[Marks]:
    """See the module's head."""
    marks = Marks()
    with Operations(marks), Places(marks):
        yield marks

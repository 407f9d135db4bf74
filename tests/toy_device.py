"""A device for tests: on the CPU, and strict as a graphics card is.

Its tensors mix with no others, and numpy cannot read them. It has no double precision, like Apple's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "toy"
aten = torch.ops.aten
#: What takes tensors of the CPU besides: copies between devices, and places, which may be on the host.
MIXING = {aten._to_copy.default, aten.copy_.default, aten.index.Tensor, aten._index_put_impl_.default}
MIXING |= {aten.index_put.default, aten.index_put_.default}


class Module(_DummyBackendModule):
    """What torch asks of a device."""

    def get_rng_state(self, _device=None) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, _state, _device=None) -> None:
        pass


_setup_privateuseone_for_python_backend(NAME, Module())
TOY = torch.device(NAME, 0)


class OnToy(torch.Tensor):
    """A tensor of the device; `inner` holds its values."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=TOY, **layout)

    def __init__(self, inner: torch.Tensor):
        if inner.dtype == torch.float64:
            raise TypeError("The device has no float64.")
        self.inner = inner

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.tolist:
            return args[0].inner.tolist()
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("The device's tensors are copied to the host before numpy reads them.")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            places = tuple(torch.as_tensor(p) if isinstance(p, list | np.ndarray) else p for p in places)
            args = (args[0], places, *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the values, and put the result where it belongs."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_toy = [isinstance(tensor, OnToy) for tensor in tensors]
    is_mixed = any(tensor.dim() and not there for tensor, there in zip(tensors, on_toy, strict=True)) and any(on_toy)
    if is_mixed and (func not in MIXING or (not on_toy[0] and func is not aten.copy_.default)):
        raise RuntimeError(f"{func} was given tensors of two devices.")
    stays = on_toy[0] if func in MIXING else any(on_toy)
    if kwargs.get("device") is not None:
        stays = torch.device(kwargs["device"]).type == TOY.type
        kwargs = kwargs | {"device": torch.device("cpu")}
    inside = [tree_map(lambda x: x.inner if isinstance(x, OnToy) else x, part) for part in (args, kwargs)]
    result = func(*inside[0], **inside[1])
    if not stays:
        return result
    wrapped = tree_map(lambda x: OnToy(x) if isinstance(x, torch.Tensor) else x, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if any(on_toy) else wrapped


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """``torch.tensor`` copies to a device past the dispatcher."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        makes = func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == TOY
        if makes and not isinstance(args[0], OnToy):
            del kwargs["device"]
            return func(*args, **kwargs).to(TOY)
        return func(*args, **kwargs)


@contextlib.contextmanager
def toy_device() -> Iterator[torch.device]:
    """The device, while the context lasts."""
    # A thread of its own for its gradients would not know the modes.
    with _Making(), _Dispatch(), sdpa_kernel(SDPBackend.MATH), torch.autograd.set_multithreading_enabled(False):
        yield TOY

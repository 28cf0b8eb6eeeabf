"""A device that is not there: what a computation on a GPU would have to wait for, told without one.

Tensors on the device `meta` have shapes, types and no numbers. `Watch` sees each operation: it notes the line where the host
would read a number of the device, or where tensors of the CPU and of the device meet.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"
COUNTED = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount", "equal", "argwhere"}
PACKAGE = "ebm_pipeline"


class Watch(TorchDispatchMode):
    """Notes operations that make the host wait for the device; a number that is read there is `answer`."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer = answer
        self.seen: Counter[str] = Counter()  # FILE OPERATION, of the package's innermost file

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense" and args[0].device.type == DEVICE:
            self._note("reads a number")
            return _type_of(args[0])(self.answer)
        if name in COUNTED or (name == "index" and any(_chooses(index) for index in args[1])):
            self._note(f"{name}, whose size the host must know")
        if len(_devices(args, kwargs)) > 1:
            self._note(f"{name} of CPU and device")
        if name == "_to_copy" and args[0].device.type == DEVICE and _target(kwargs) == "cpu":
            return torch.full(args[0].shape, self.answer, dtype=kwargs.get("dtype") or args[0].dtype)
        if DEVICE in _devices(args, kwargs):
            kwargs.pop("generator", None)  # the device has none
        return func(*args, **kwargs)

    def _note(self, what: str) -> None:
        files = [Path(frame.filename) for frame in traceback.extract_stack()]
        own = [path.name for path in files if PACKAGE in path.parts]
        self.seen[f"{own[-1] if own else 'outside'}: {what}"] += 1


def _type_of(tensor: Tensor) -> type:
    """The Python type of a number of a tensor."""
    if tensor.dtype == torch.bool:
        return bool
    return float if tensor.is_floating_point() else int


def _chooses(index: Tensor | None) -> bool:
    """Whether an index picks rows by truth values, whose number the host must know."""
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def _target(kwargs: Any) -> str | None:
    """The device that a result is to be on, where it is said."""
    return None if kwargs.get("device") is None else torch.device(kwargs["device"]).type


def _devices(args: Any, kwargs: Any) -> set[str]:
    """Of an operation's tensors and its result; numbers of the CPU, without dimensions, go along with the call."""
    found = {
        each.device.type
        for each in _tensors((args, tuple(kwargs.values())))
        if each.dim() or each.device.type == DEVICE
    }
    target = _target(kwargs)
    return found | {target} if found and target is not None else found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)

"""Secret words, noted when an op makes them, and searched for in all memory that tensors had."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyfed import Key

MAKERS = ("pyfed::random_residues", "pyfed::lagrange_encode", "pyfed::quantize")
"""Ops whose results nobody else may see: masks and queries, shares, encoded updates."""

KEYED = {"pyfed::add_masks_": 1, "pyfed::quantize_mask": 5}
"""Ops that take the words of many keys, and where."""

COMMON = 2**16
"""Words below this, or as near below the prime, may be public by chance."""


class Canaries(TorchDispatchMode):
    """Keeps every integer tensor that any op gives or takes, so that its memory is not used again.

    What the ``MAKERS`` give, and the stacked keys of ``KEYED``, are noted as secrets; but not
    the challenges of whoever decodes to the rows that it holds, which serve once.

    Args:
        fail_at: the pyfed op, counted from 0, that fails for want of memory; None: none does.
    """

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.tensors: dict[tuple[Any, ...], torch.Tensor] = {}
        self.secrets: set[int] = set()
        self.fail_at, self.calls = fail_at, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.name())
        if name.startswith("pyfed::"):
            if self.calls == self.fail_at:
                self.calls += 1
                raise MemoryError("no memory")
            self.calls += 1
        if name in KEYED:
            self._note(args[KEYED[name]])
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else (out,)
        if name in MAKERS and not called_from("pyfed.locate"):
            for result in results:
                self._note(result)
        for tensor in (*results, *args):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.int32, torch.int64):
                place = tensor.device, tensor.data_ptr(), tensor.numel(), tensor.element_size()
                self.tensors.setdefault(place, tensor)  # kept, so its memory stays its own
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        with _disable_current_modes():
            words = tensor.detach().cpu().reshape(-1).tolist()
        self.secrets |= {w for w in words if COMMON < abs(w) < 2**31 - 2**17 - COMMON}

    def left(self, device: str | None = None) -> set[int]:
        """The secret words that are still in some tensor (on a device of this type)."""
        here = [t for t in self.tensors.values() if device in (None, t.device.type)]
        with _disable_current_modes():
            held = {value for tensor in here for value in tensor.reshape(-1).tolist()}
        return held & self.secrets


def called_from(module: str) -> bool:
    """Whether a module is among the callers."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != module:
        frame = frame.f_back
    return frame is not None


def watch_keys(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """Every key that is made from now on."""
    made: list[Key] = []
    original = Key.__init__

    def watched(self: Key, secret: Any) -> None:
        original(self, secret)
        made.append(self)

    monkeypatch.setattr(Key, "__init__", watched)
    return made


def alive(keys: list[Key]) -> list[Key]:
    return [key for key in keys if key.reveal() != bytes(32)]

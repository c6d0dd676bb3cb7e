"""What a sketch leaves in memory that is free again. ``test_stack_wiped.py`` looks at kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from case import KEY
from pyfed.ops.sketch import sketch_op


class Made(TorchDispatchMode):
    """Remembers every tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        if isinstance(made, torch.Tensor):
            self.tensors.append(made)
        return made


def test_what_discrete_noise_is_to_hide_is_wiped() -> None:
    """Sums, their steps and the noise are nowhere once the sketch of two clients is made."""
    x, starts = torch.randn(30, 4), torch.tensor([0, 11, 30])
    with Made() as made:
        out = sketch_op.kernels["cpu"].run(x, None, KEY.words(), starts, 7, 1, 3, 5.0, 0.5, False)
    own = {t.untyped_storage().data_ptr() for t in (out, x, starts)}
    rest = [t for t in made.tensors if t.untyped_storage().data_ptr() not in own]
    clients = [t for t in rest if t.numel() == 28]
    assert {t.dtype for t in clients} == {torch.float64, torch.int32}
    assert not any(t.any() for t in clients)
    assert out.any()

"""Memory that launchers allocate beside their results holds nothing of the operands afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import KEY, residues
from matching import word_of
from pyfed import MERSENNE31, SOLINAS31
from pyfed.triton_kernels import field, lagrange


class Recorder(TorchDispatchMode):
    """Keeps every tensor that is made, so that its memory is not used again."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.made.append(out)
        return out


def places(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def left_behind(call: Any, *known: torch.Tensor) -> int:
    """Nonzero bytes in tensors of more than a word that are neither known nor the result."""
    with Recorder() as recorder:
        result = call()
    assert recorder.made
    mine = {places(tensor) for tensor in (*known, result)}
    others = [t for t in recorder.made if places(t) not in mine and t.nbytes > 4]
    return sum(int(t.contiguous().view(-1).view(torch.uint8).count_nonzero()) for t in others)


@pytest.mark.parametrize("p", [SOLINAS31.modulus, MERSENNE31.modulus])
@pytest.mark.parametrize("shape", [(5, 9, 20), (20, 9, 5)])
def test_no_digits_of_a_product_are_left(p: int, shape: tuple[int, int, int]) -> None:
    (m, k, n), word = shape, word_of("cpu")
    a, b = residues(p, m, k), residues(p, k, n)
    assert left_behind(lambda: field.field_matmul(a, b, p, word), a, b) == 0
    matrix, rows = a, b
    assert left_behind(lambda: lagrange.lagrange_decode(rows, matrix, p, m * n, word), a, b) == 0
    key = KEY.words()
    data, wide = residues(p, 4 * n), residues(p, m, 7)
    args = (data, wide, key, p, 4, 0, 3, word)
    assert left_behind(lambda: lagrange.lagrange_encode(*args), data, wide, key) == 0


def test_what_is_left_is_found() -> None:
    secret = torch.arange(1, 9)
    assert left_behind(lambda: (secret.clone() * 2).sum(), secret) > 0

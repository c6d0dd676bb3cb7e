"""Whether kernels are right: a tiny call of every op, compared with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyfed import ops
from pyfed.checks import check
from pyfed.fields import SOLINAS31
from pyfed.keys import Key
from pyfed.op import OPS, Backend, use_backend

_KEY = Key(bytes(range(32)))


def _ramp(device: str, *shape: int) -> torch.Tensor:
    """Residues 0, 1, 2 … with the largest one in place of the 0."""
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.int32)
    values[0] = SOLINAS31.modulus - 1
    return values.reshape(shape).to(device)


def _bits(device: str, *shape: int) -> torch.Tensor:
    """A mask in which every third and every seventh element is set."""
    places = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return ((places % 3 == 0) | (places % 7 == 0)).to(device)


def _packed(device: str, rows: int) -> torch.Tensor:
    """Masks of 100 elements, 4 bits of the last byte clear."""
    values = torch.arange(13 * rows, dtype=torch.uint8).reshape(rows, 13) * 37
    values[:, -1] &= 15
    return values.to(device)


def _votes(device: str) -> torch.Tensor:
    return (torch.arange(100) % 5).to(torch.uint8).reshape(10, 10).to(device)


def _weights(device: str) -> torch.Tensor:
    return torch.linspace(-1, 1, 100).reshape(10, 10).to(device)


# The torch op's arguments of one tiny case of every op, by device.
SAMPLES: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "random_words": lambda d: ops.random_words.prepare(_KEY, 100, device=d),
    "random_residues": lambda d: ops.random_residues.prepare(_KEY, 100, SOLINAS31, device=d),
    "field_matmul": lambda d: ops.field_matmul.prepare(_ramp(d, 5, 7), _ramp(d, 7, 9), SOLINAS31),
    "field_sum": lambda d: ops.field_sum.prepare(_ramp(d, 3, 20), SOLINAS31, weights=[1, 2, 3]),
    "quantize": lambda d: ops.quantize.prepare(
        torch.linspace(-1, 1, 50, device=d), 1024.0, 0.75, SOLINAS31, _KEY
    ),
    "dequantize": lambda d: ops.dequantize.prepare(_ramp(d, 50), 1024.0, SOLINAS31),
    "lagrange_encode": lambda d: ops.lagrange_encode.prepare(
        _ramp(d, 20), _ramp(d, 6, 4), _KEY, SOLINAS31, blocks=3
    ),
    "lagrange_decode": lambda d: ops.lagrange_decode.prepare(
        _ramp(d, 4, 7), _ramp(d, 3, 4), SOLINAS31, 20
    ),
    "mask_pack": lambda d: ops.mask_pack.prepare(_bits(d, 3, 100)),
    "mask_unpack": lambda d: ops.mask_unpack.prepare(_packed(d, 3), 100),
    "mask_popcount": lambda d: ops.mask_popcount.prepare(_packed(d, 3), 100),
    "mask_count": lambda d: ops.mask_count.prepare(_packed(d, 9), 100),
    "mask_add": lambda d: ops.mask_add.prepare(_packed(d, 2), _packed(d, 9), 100, 12),
    "mask_totals": lambda d: ops.mask_totals.prepare(_packed(d, 9), 100),
    "mask_select": lambda d: ops.mask_select.prepare(
        _votes(d), (10, 10), 0.5, "column", weight=_weights(d)
    ),
    "mask_prune_": lambda d: ops.mask_prune_.prepare(
        _weights(d), _votes(d), 0.5, ties="random", key=_KEY, clients=4
    ),
    "masked_mean": lambda d: ops.masked_mean.prepare(
        _weights(d), _bits(d, 10, 10), weights=list(range(10))
    ),
}


def _device(backend: Backend) -> str:
    # device_count asks the driver's management library, so it does not initialise CUDA.
    on_gpu = backend in ("cuda", "triton") and torch.cuda.device_count() > 0
    return "cuda" if on_gpu else "cpu"


def self_check(name: str, backend: Backend) -> str:
    """``"ok"``; ``"FAILED: …"``; or the reason why this backend cannot run the op here."""
    op = OPS[name]
    try:
        args = SAMPLES[name](_device(backend))
        reason = op.objection(backend, args)
        if reason == "the tensors are on cpu":
            return "there is no CUDA device"
        if reason is not None:
            return reason
        plain = SAMPLES[name]("cpu")
        with use_backend("reference"):
            wanted = [op.torch_op(*plain), *(plain[place] for place in op.written)]
        with use_backend(backend):
            got = [op.torch_op(*args), *(args[place] for place in op.written)]
        check()
    except Exception as error:  # whatever is broken here, the report must still be printed
        return f"FAILED: {type(error).__name__}: {error}"
    same = all(torch.equal(one.cpu(), right) for one, right in zip(got, wanted, strict=True))
    return "ok" if same else "FAILED: differs from the reference"

"""Whether kernels are right: a tiny call of every op, compared with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyfed import ops
from pyfed.checks import check
from pyfed.fields import SOLINAS31, WIDE
from pyfed.keys import Key
from pyfed.op import OPS, Backend, Op, use_backend

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


def _owner(device: str) -> torch.Tensor:
    """The client of each of 10 rows; client 1 has none."""
    return torch.tensor([0] * 3 + [2] * 7, device=device)


def _banks(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of rank 2 for 3 clients, of a layer 10 → 10."""
    factors = torch.linspace(-1, 1, 60, device=device)
    return factors.reshape(3, 2, 10), factors.reshape(3, 10, 2)


def _lora_gradient(device: str) -> tuple[Any, ...]:
    x, _, a, b, *rest = SAMPLES["lora_linear"](device)
    hidden = torch.linspace(-1, 1, 20, device=device).reshape(10, 2)
    return (_weights(device), x, a, b, hidden, *rest)


# The torch op's arguments of one tiny case of every op, by device.
SAMPLES: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "random_words": lambda d: ops.random_words.prepare(_KEY, 100, device=d),
    "random_residues": lambda d: ops.random_residues.prepare(_KEY, 100, SOLINAS31, device=d),
    "add_masks_": lambda d: ops.add_masks_.prepare(
        _ramp(d, 100), [_KEY, _KEY.derive("other")], [1, -1], SOLINAS31, start=3
    ),
    "quantize_mask": lambda d: ops.quantize_mask.prepare(
        torch.linspace(-1, 1, 50, device=d), 1024.0, 0.75, SOLINAS31, [_KEY], [-1], _KEY, 3
    ),
    "decode_sum": lambda d: ops.decode_sum.prepare(
        _ramp(d, 5, 20), _ramp(d, 4, 7), _ramp(d, 3, 4), SOLINAS31, 1024.0
    ),
    "discrete_gaussian": lambda d: ops.discrete_gaussian.prepare(50, 20.0, _KEY, device=d),
    "field_matmul": lambda d: ops.field_matmul.prepare(_ramp(d, 5, 7), _ramp(d, 7, 9), SOLINAS31),
    "field_sum": lambda d: ops.field_sum.prepare(_ramp(d, 3, 20), SOLINAS31, weights=[1, 2, 3]),
    "quantize": lambda d: ops.quantize.prepare(
        torch.linspace(-1, 1, 50, device=d), 1024.0, 0.75, SOLINAS31, _KEY
    ),
    "dequantize": lambda d: ops.dequantize.prepare(_ramp(d, 50), 1024.0, SOLINAS31),
    "field_lift": lambda d: ops.field_lift.prepare(_ramp(d, 2, 30), WIDE),
    "lagrange_encode": lambda d: ops.lagrange_encode.prepare(
        _ramp(d, 20), _ramp(d, 6, 4), _KEY, SOLINAS31, blocks=3
    ),
    "quantize_encode": lambda d: ops.quantize_encode.prepare(
        torch.linspace(-1, 1, 20, device=d), 1024.0, 0.75, _ramp(d, 6, 4), _KEY, SOLINAS31, blocks=3
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
    "counter_dropout": lambda d: ops.counter_dropout.prepare(
        _weights(d), 0.3, _KEY, _owner(d), clients=3
    ),
    "lora_merge_": lambda d: ops.lora_merge_.prepare(
        _weights(d), _weights(d)[:4], _weights(d)[:, :4], 0.5
    ),
    "lora_linear": lambda d: ops.lora_linear.prepare(
        _weights(d), _weights(d), *_banks(d), 0.5, _owner(d), 0.3, _KEY
    ),
    "lora_linear_backward": _lora_gradient,
    "weighted_mean": lambda d: ops.weighted_mean.prepare(
        [[_weights(d), _weights(d)[0].bfloat16()]] * 3, [1, 2, 3]
    ),
    "segment_clip_": lambda d: ops.segment_clip_.prepare(_weights(d), 1.5),
    "bank_adamw_": lambda d: ops.bank_adamw_.prepare(
        *(_weights(d), _weights(d), _weights(d), _weights(d).abs()), _owner(d), 0.1
    ),
    "bank_sgd_": lambda d: ops.bank_sgd_.prepare(
        *(_weights(d), _weights(d), _weights(d)), _owner(d), 0.1, 0.9
    ),
    "sketch": lambda d: ops.sketch.prepare(_weights(d), 9, _KEY, noise_std=0.5, public=False),
}

# Sums of products, which kernels add in an order of their own; all other ops give equal bits.
ROUNDED = frozenset(
    {"lora_merge_", "lora_linear", "lora_linear_backward", "segment_clip_", "sketch"}
)


def results_of(op: Op, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """All tensors that a call gives, and after them the arguments that it writes."""
    result = op.torch_op(*args)
    given = [] if result is None else [result] if isinstance(result, torch.Tensor) else [*result]
    return [*given, *(args[place] for place in op.written if args[place] is not None)]


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


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
            wanted = results_of(op, plain)
        with use_backend(backend):
            got = results_of(op, args)
        check()
    except Exception as error:  # whatever is broken here, the report must still be printed
        return f"FAILED: {type(error).__name__}: {error}"
    agree = _close if name in ROUNDED else torch.equal
    same = all(agree(one.cpu(), right) for one, right in zip(got, wanted, strict=True))
    return "ok" if same else "FAILED: differs from the reference"

"""Dropout by counter: who drops what depends on a key and a place, not on the order of calls.

So a client's activations are dropped alike whether it trains alone or beside others, and the mask
is made again where it is needed instead of being kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pyfed import native
from pyfed.checks import expect_key, expect_tensor
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.clients import (
    check_starts,
    client_of_rows,
    client_starts,
    client_streams,
    describe_starts,
    expect_rate,
)
from pyfed.ops.selection_arguments import KINDS

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _mul_high_low(a: int, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low word of a · b, both below 2^32; the parts stay below 2^49."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox_reference(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The block of Philox4x32-10 for each counter: int64 tensors that hold 32-bit words.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = (key[i].to(torch.int64) & 0xFFFFFFFF for i in (0, 1))
    for step in range(10):
        high0, low0 = _mul_high_low(0xD2511F53, c0)
        high1, low1 = _mul_high_low(0xCD9E8D57, c2)
        first = (k0 + step * 0x9E3779B9) & 0xFFFFFFFF
        second = (k1 + step * 0xBB67AE85) & 0xFFFFFFFF
        c0, c1, c2, c3 = high1 ^ c1 ^ first, low1, high0 ^ c3 ^ second, low0
    return c0, c1, c2, c3


def threshold_of(rate: float) -> int:
    """The smallest word that is kept: round(rate · 2^32)."""
    return min(round(rate * 2**32), 2**32 - 1)


def keep_scale(rate: float) -> float:
    """What survivors are multiplied by; kernels round it to float32."""
    return 1.0 / (1.0 - rate)


def kept_reference(
    x: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor,
    streams: torch.Tensor,
    rate: float,
) -> torch.Tensor:
    """Which elements of x (rows, features) are kept: bool, of that shape."""
    rows, features = x.shape
    client = client_of_rows(starts, rows)
    place = torch.arange(rows, device=starts.device) - starts[client]
    element = place[:, None] * features + torch.arange(features, device=starts.device)
    block, stream = element // 4, streams[client][:, None].expand(-1, features)
    mask = 0xFFFFFFFF
    words = philox_reference(
        (block & mask, (block >> 32) & mask, stream & mask, (stream >> 32) & mask), key
    )
    chosen = torch.stack(words).gather(0, (element % 4)[None])[0]
    return chosen >= threshold_of(rate)


def dropped_reference(
    x: torch.Tensor, starts: torch.Tensor, key: torch.Tensor, streams: torch.Tensor, rate: float
) -> torch.Tensor:
    """X (rows, features) with dropout, rounded once to its dtype."""
    kept = kept_reference(x, starts, key, streams, rate)
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    scale = torch.tensor(keep_scale(rate), dtype=wide.dtype, device=x.device)
    return torch.where(kept, wide * scale, 0.0).to(x.dtype)


def _counter_dropout_reference(
    x: torch.Tensor, key: torch.Tensor, streams: torch.Tensor, starts: torch.Tensor, rate: float
) -> torch.Tensor:
    if x.numel() == 0:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x.reshape(-1).view(-1, x.shape[-1])  # with the strides that the result is to have
    check_starts("counter_dropout", starts, len(rows))
    return dropped_reference(rows, starts, key, streams, rate).view(x.shape)


def _counter_dropout_fake(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(x.shape)


counter_dropout_op = Op(
    "counter_dropout(Tensor x, Tensor key, Tensor streams, Tensor starts, float rate) -> Tensor",
    fake=_counter_dropout_fake,
    reference=_counter_dropout_reference,
    describe=describe_starts("counter_dropout"),
)


def float64_reason(tensor: torch.Tensor) -> str | None:
    """Why no kernel serves this dtype; None when one does."""
    return "float64 runs on the reference alone" if tensor.dtype == torch.float64 else None


@counter_dropout_op.kernel("cpu", lambda x, *rest: native.cpu_reason(x) or float64_reason(x))
@counter_dropout_op.kernel("cuda", lambda x, *rest: native.cuda_reason(x) or float64_reason(x))
def _counter_dropout_native(
    x: torch.Tensor, key: torch.Tensor, streams: torch.Tensor, starts: torch.Tensor, rate: float
) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    rows, features = x.numel() // x.shape[-1], x.shape[-1]
    if x.device.type != "cpu":  # there the kernel looks at them itself
        check_starts("counter_dropout", starts, rows)
    x, key, streams, starts = (t.contiguous() for t in (x, key, streams, starts))
    native.run(
        *("counter_dropout", x.device, x, KINDS[x.dtype], rows, features, len(starts) - 1),
        *(starts, key, streams, threshold_of(rate), keep_scale(rate), out),
    )
    return out


@counter_dropout_op.kernel("triton", lambda x, *rest: native.triton_reason(x) or float64_reason(x))
def _counter_dropout_triton(
    x: torch.Tensor, key: torch.Tensor, streams: torch.Tensor, starts: torch.Tensor, rate: float
) -> Any:
    from pyfed.triton_kernels import dropout as kernels

    if x.numel() == 0:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)
    check_starts("counter_dropout", starts, x.numel() // x.shape[-1])
    dense = (t.contiguous() for t in (x, key, streams, starts))
    return kernels.counter_dropout(*dense, threshold_of(rate), keep_scale(rate))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])
    ctx.rate = inputs[4]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    dropped = counter_dropout_op.torch_op(grad, *ctx.saved_tensors, ctx.rate)
    return dropped, None, None, None, None


counter_dropout_op.differentiable(_backward, _keep)


@counter_dropout_op.public
def counter_dropout(
    x: torch.Tensor,
    rate: float,
    key: Key,
    client: torch.Tensor | None = None,
    clients: int = 1,
    stream: int | torch.Tensor = 0,
) -> tuple[Any, ...]:
    """Set a random part of the elements to 0 and multiply the others by 1 / (1 - rate).

    Element e of a client, counted over its own rows, is kept when word e mod 4 of block ⌊e/4⌋ of
    Philox4x32-10 is round(rate · 2^32) or more. The block's counter ends in the client's stream.
    The mask depends on nothing else, so the gradient and a recomputation make the same one. It is
    differentiable. Nothing secret may depend on it.

    Args:
        x: float32, float16, bfloat16 or float64 (…, features); rows are the leading dimensions.
        rate: the part that is dropped, in [0, 1).
        key: whose first two words are the generator's key.
        client: int64 (rows,), ascending: whose each row is; None: the rows are split equally.
        clients: how many there are.
        stream: of each client, int64 (clients,) from 0 on; an int s means s + 2^32 · client.

    Returns:
        Tensor like ``x``, the products in float32 rounded once.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, a number is out of range, or ``client`` does not ascend
            in [0, clients).

    Example:
        >>> import torch, pyfed
        >>> key = pyfed.Key(bytes(32))
        >>> pyfed.ops.counter_dropout(torch.ones(2, 4), 0.5, key)
        tensor([[0., 2., 2., 2.],
                [2., 0., 2., 0.]])

    Source: Salmon et al., SC 2011 (Philox).
    """
    expect_tensor("counter_dropout", "x", x, FLOATS)
    if x.dim() == 0:
        raise ArgumentError("counter_dropout: x has shape (); it must be (…, features)")
    expect_rate("counter_dropout", "rate", rate)
    expect_key("counter_dropout", key)
    rows = math.prod(x.shape[:-1])
    starts = client_starts("counter_dropout", client, clients, rows, x)
    streams = client_streams("counter_dropout", stream, clients, x.device)
    return x, key.words(x.device), streams, starts, float(rate)

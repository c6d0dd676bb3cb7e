"""Exact products and sums of residues modulo the primes with fast kernels in Triton."""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, canonical, ceil_div, report_any
from .product import product

BLOCK = 1024


@triton.jit(do_not_specialize=["clients", "length", "modulus"])
def field_sum_kernel(
    out,
    x,  # (clients, length)
    weights,  # (clients,), or None
    word,
    clients: tl.int64,
    length: tl.int64,
    modulus: tl.int32,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sums of one block of elements over all clients."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < length
    # Both halves of every product are below 2^32, so that 2^32 clients fit without reduction.
    low = tl.zeros((BLOCK,), tl.uint64)
    high = tl.zeros((BLOCK,), tl.uint64)
    largest = tl.zeros((BLOCK,), tl.uint32)
    for client in range(0, clients):
        value = tl.load(x + client * length + index, mask=inside, other=0)
        value = value.to(tl.uint32, bitcast=True)
        largest = tl.maximum(largest, value)
        if WEIGHTED:
            weight = tl.load(weights + client).to(tl.uint32, bitcast=True)
            largest = tl.maximum(largest, weight)
            product = value.to(tl.uint64) * weight.to(tl.uint64)
            low += product & 0xFFFFFFFF
            high += product >> 32
        else:
            low += value
    report_any(word, largest >= modulus.to(tl.uint32), BAD_RESIDUE)
    # 2^32 ≡ 2c < 2^20 and canonical(high) < 2^31: the joined sum is below 2^31 + 2^51.
    above = canonical(high, modulus).to(tl.uint64) * (2 * (2147483648 - modulus.to(tl.uint64)))
    total = canonical(canonical(low, modulus).to(tl.uint64) + above, modulus)
    tl.store(out + index, total.to(tl.int32, bitcast=True), mask=inside)


def field_matmul(
    a: torch.Tensor, b: torch.Tensor, modulus: int, word: torch.Tensor
) -> torch.Tensor:
    """The product (m, k) x (k, n) → (m, n) of int32 residues.

    Args:
        a: (m, k).
        b: (k, n).
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        word: gets bit 1 when an element lies outside [0, p).
    """
    (m, k), n = a.shape, b.shape[1]
    out = torch.zeros(m, n, dtype=torch.int32, device=a.device)
    if 0 in (m, k, n):
        return out
    a, b = a.contiguous(), b.contiguous()
    if m <= n:
        product(out, a, b, (m, k, n), modulus, word)
    else:  # (b^T a^T)^T: the digits, four times as large as what they come from, of the smaller
        transposed = {"left_transposed": True, "right_transposed": True, "out_transposed": True}
        product(out, b, a, (n, k, m), modulus, word, **transposed)
    return out


def field_sum(
    x: torch.Tensor, weights: torch.Tensor | None, modulus: int, word: torch.Tensor
) -> torch.Tensor:
    """The weighted sum over the first dimension of int32 residues: (clients, …) → (…).

    Args:
        x: (clients, …).
        weights: (clients,) residues, or None for all 1.
        modulus: 2^31 - 2^17 + 1, 2^31 - 2^19 + 1 or 2^31 - 1.
        word: gets bit 1 when an element lies outside [0, p).
    """
    x = x.contiguous()
    weights = None if weights is None else weights.contiguous()
    out = torch.empty(x.shape[1:], dtype=torch.int32, device=x.device)
    if out.numel() == 0:
        return out
    with torch.cuda.device_of(out):
        field_sum_kernel[(ceil_div(out.numel(), BLOCK),)](
            *(out, x, weights, word, x.shape[0], out.numel(), modulus),
            WEIGHTED=weights is not None,
            BLOCK=BLOCK,
        )
    return out

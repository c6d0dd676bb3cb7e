"""What a server does with uploads in Triton: each is read once, and the result written once."""

import torch
import triton
import triton.language as tl

from .common import BAD_RESIDUE, canonical, ceil_div, report_any
from .lagrange import lagrange_decode

BLOCK = 1024


@triton.jit(do_not_specialize=["uploads", "mask", "clients", "length", "step", "modulus"])
def decode_sum_kernel(
    out,
    uploads,  # (clients, length)
    mask,  # (length,), canonical
    word,
    clients: tl.int64,
    length: tl.int64,
    step: tl.float32,
    modulus: tl.int32,
    LIFTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The unmasked sums of one block of elements."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < length
    total = tl.zeros((BLOCK,), tl.uint64)  # below 2^31 each: 2^33 clients fit
    largest = tl.zeros((BLOCK,), tl.uint32)
    for client in range(0, clients):
        value = tl.load(uploads + client * length + index, mask=inside, other=0)
        value = value.to(tl.uint32, bitcast=True)
        largest = tl.maximum(largest, value)
        total += value
    report_any(word, largest >= modulus.to(tl.uint32), BAD_RESIDUE)
    sums = canonical(total, modulus).to(tl.int32, bitcast=True)
    bare = sums - tl.load(mask + index, mask=inside, other=0)  # above -p
    bare = tl.where(bare < 0, bare + modulus, bare)
    if LIFTED:
        centred = tl.where(bare > (modulus >> 1), bare - modulus, bare)
        tl.store(out + index, centred.to(tl.float32) * step, mask=inside)
    else:
        tl.store(out + index, bare, mask=inside)


def decode_sum(
    uploads: torch.Tensor,
    rows: torch.Tensor,
    matrix: torch.Tensor,
    scale: float | None,
    modulus: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Σ_i uploads[i] - lagrange_decode(rows, matrix) mod p, or its centred lift over the scale.

    The decoded mask goes through memory: a word of each element beside the uploads' many.

    Args:
        uploads: int32 (clients, length).
        rows: int32 (threshold, columns).
        matrix: int32 (blocks, threshold), columns = ⌈length / blocks⌉.
        scale: a power of two from 2^-100 to 2^100; None: the result is int32 residues.
        modulus: 2^31 - 2^17 + 1 or 2^31 - 1.
        word: gets bit 1 when an element lies outside [0, p).
    """
    uploads = uploads.contiguous()
    clients, length = uploads.shape
    dtype = torch.int32 if scale is None else torch.float32
    out = torch.empty(length, dtype=dtype, device=uploads.device)
    mask = lagrange_decode(rows, matrix, modulus, length, word)
    if length == 0:
        return out
    with torch.cuda.device_of(out):
        decode_sum_kernel[(ceil_div(length, BLOCK),)](
            *(out, uploads, mask, word, clients, length),
            *(0.0 if scale is None else 1 / scale, modulus),
            LIFTED=scale is not None,
            BLOCK=BLOCK,
        )
    mask.zero_()
    return out

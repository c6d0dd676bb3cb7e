"""Weighted means of lists of tensors in Triton, in one launch.

Tensors of any shapes and dtypes are reached through tables of addresses; the kernel is told where
each of its blocks lies. A block goes through all clients in registers, in their order: each product
is rounded, and then each sum, as the launch switches contraction off.
"""

import torch
import triton
import triton.language as tl

from .common import NOT_FINITE, ceil_div, report_any
from .floats import not_finite, rounded, widened

BLOCK = 1024
TOGETHER = tl.constexpr(4)  # clients whose loads are under way at once
FLOAT32 = tl.constexpr(1)
FLOAT16 = tl.constexpr(2)
BFLOAT16 = tl.constexpr(3)

EXACT = {"enable_fp_fusion": False}


@triton.jit
def add_client(
    total,  # float32 (BLOCK,)
    source,  # int64: where the address of its tensor is
    weight,  # float32: where its weight is
    index,
    inside,
    dtype: tl.constexpr,
    FULL: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The sums after one more client."""
    address = tl.load(source)
    own = address.to(tl.pointer_type(dtype))
    if ALIGNED:
        own = tl.multiple_of(own, 16)
    own += index
    value = tl.load(own) if FULL else tl.load(own, mask=inside, other=0.0)
    return total + tl.load(weight) * widened(value)


@triton.jit
def mean_of(
    sources,  # int64: where the address of client 0's tensor is; the next is ``tensors`` further
    target,  # the address of its mean
    weights,
    word,
    first,
    size,
    clients,
    tensors,
    dtype: tl.constexpr,
    FULL: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The means of one block of a tensor of one dtype, which has all of it where ``FULL``."""
    index = first + tl.arange(0, BLOCK)
    inside = index < size
    total = tl.zeros((BLOCK,), tl.float32)
    whole = clients // TOGETHER * TOGETHER
    for start in range(0, whole, TOGETHER):
        for i in tl.static_range(TOGETHER):
            source, weight = sources + (start + i) * tensors, weights + start + i
            total = add_client(total, source, weight, index, inside, dtype, FULL, ALIGNED)
    for client in range(whole, clients):
        source, weight = sources + client * tensors, weights + client
        total = add_client(total, source, weight, index, inside, dtype, FULL, ALIGNED)
    narrow = rounded(total, dtype)
    bad = not_finite(total) | not_finite(widened(narrow))
    report_any(word, inside & bad, NOT_FINITE)
    out = target.to(tl.pointer_type(dtype))
    if ALIGNED:
        out = tl.multiple_of(out, 16)
    out += index
    if FULL:
        tl.store(out, narrow)
    else:
        tl.store(out, narrow, mask=inside)


@triton.jit
def mean_of_block(
    sources,
    target,
    weights,
    word,
    first,
    size,
    clients,
    tensors,
    dtype: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The means of one block; nowhere but at a tensor's end are there masks."""
    place = (first, size, clients, tensors)
    if first + BLOCK <= size:
        mean_of(sources, target, weights, word, *place, dtype, True, ALIGNED, BLOCK)
    else:
        mean_of(sources, target, weights, word, *place, dtype, False, ALIGNED, BLOCK)


@triton.jit(do_not_specialize=["chunks", "weights", "clients", "tensors", "parts"])
def weighted_mean_kernel(
    sources,  # int64 (clients, tensors): addresses
    targets,  # int64 (tensors,): addresses
    sizes,  # int64 (tensors,)
    kinds,  # int64 (tensors,): 1 float32, 2 float16, 3 bfloat16
    weights,  # float32 (clients,)
    chunks,  # int64 (count, 2): a tensor, and the first element
    word,
    clients: tl.int64,
    tensors: tl.int64,
    parts: tl.int32,  # blocks in a chunk
    ALIGNED: tl.constexpr,  # all addresses are multiples of 16, and chunks of 16 elements
    BLOCK: tl.constexpr,
):
    """The means of one block of elements of one tensor."""
    chunk = (tl.program_id(0) // parts).to(tl.int64)
    tensor = tl.load(chunks + 2 * chunk)
    first = tl.load(chunks + 2 * chunk + 1)
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    first += (tl.program_id(0) % parts).to(tl.int64) * BLOCK
    size = tl.load(sizes + tensor)
    kind = tl.where(first < size, tl.load(kinds + tensor), 0)
    place = (first, size, clients, tensors)
    own, target = sources + tensor, tl.load(targets + tensor)
    if kind == FLOAT32:
        mean_of_block(own, target, weights, word, *place, tl.float32, ALIGNED, BLOCK)
    elif kind == FLOAT16:
        mean_of_block(own, target, weights, word, *place, tl.float16, ALIGNED, BLOCK)
    elif kind == BFLOAT16:
        mean_of_block(own, target, weights, word, *place, tl.bfloat16, ALIGNED, BLOCK)


def weighted_mean(
    sources: torch.Tensor,
    targets: torch.Tensor,
    sizes: torch.Tensor,
    kinds: torch.Tensor,
    clients: int,
    weights: torch.Tensor,
    chunks: torch.Tensor,
    chunk: int,
    word: torch.Tensor,
    aligned: bool = False,
) -> None:
    """Write Σ_c w_c t_ck, in the order of the clients, to the address of each mean.

    Args:
        sources: int64 (clients, tensors) or flat: addresses of contiguous tensors.
        targets: int64 (tensors,): addresses of the means.
        sizes: int64 (tensors,): elements of each.
        kinds: int64 (tensors,): 1 float32, 2 float16, 3 bfloat16.
        clients: how many.
        weights: float32 (clients,).
        chunks: int64 (count, 2): tensor and first element of each chunk; they cover every tensor.
        chunk: elements in a chunk; the last of a tensor ends with it.
        word: gets bit 2 when a mean is not finite.
        aligned: all addresses are multiples of 16.
    """
    if len(chunks) == 0:
        return
    parts = ceil_div(chunk, BLOCK)
    with torch.cuda.device_of(word):
        weighted_mean_kernel[(len(chunks) * parts,)](
            *(sources, targets, sizes, kinds, weights, chunks, word),
            *(clients, len(targets), parts),
            ALIGNED=aligned and chunk % 16 == 0,
            BLOCK=BLOCK,
            **EXACT,
        )

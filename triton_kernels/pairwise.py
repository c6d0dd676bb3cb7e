"""Adding many keys' residues to a vector in Triton, in one pass: no mask is ever in memory."""

import torch
import triton
import triton.language as tl

from .common import ALL_REJECTED, BAD_RESIDUE, ceil_div, clear_shared, report_any, signed32
from .random import LANES, RESIDUES, domain_of, residues, tile_of_blocks


@triton.jit
def masked_tile(total, keys, signs, masks, counter, stream, domain, inside, modulus, low_bits):
    """A tile of residues, uint32 (blocks, 16), with the signed residues of all keys added.

    Also gives the bools that say where 16 candidates in a row were rejected, and nothing is added.
    """
    stream, domain = stream.to(tl.uint32), domain.to(tl.uint32)
    modulus, low_bits = modulus.to(tl.uint32), low_bits.to(tl.uint32)
    failed = total != total
    for number in range(0, masks):
        mask, rejected = residues(
            *(keys + 8 * number, counter, stream * 0, stream, domain, inside, modulus, low_bits),
        )
        failed = failed | rejected
        mask = tl.where(rejected, 0, mask)
        # What is added is at most p, and the total at most p - 1: below 2p < 2^32 together.
        total += tl.where(tl.load(signs + number) < 0, modulus - mask, mask)
        total = tl.where(total >= modulus, total - modulus, total)
    return total, failed


@triton.jit(
    do_not_specialize=[
        *("values", "keys", "signs", "block", "lead", "count", "masks", "stream", "domain"),
        *("modulus", "low_bits"),
    ]
)
def add_masks_kernel(
    values,  # (count,), written in place
    keys,  # (masks, 8)
    signs,  # (masks,): 1 or -1
    word,
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    masks: tl.int64,
    stream: tl.int32,
    domain: tl.int32,
    modulus: tl.int32,
    low_bits: tl.int32,
    LANES: tl.constexpr,
):
    """Add all masks to the elements of one tile of blocks."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    total = tl.load(values + first + local, mask=inside, other=0).to(tl.uint32, bitcast=True)
    outside = total >= modulus.to(tl.uint32)
    report_any(word, outside, BAD_RESIDUE)
    total = tl.where(outside, 0, total)  # masked all the same
    total, failed = masked_tile(
        total, keys, signs, masks, counter, stream, domain, inside, modulus, low_bits
    )
    tl.store(values + first + local, total.to(tl.int32, bitcast=True), mask=inside)
    report_any(word, failed, ALL_REJECTED)
    clear_shared()


def add_masks_(
    values: torch.Tensor,
    keys: torch.Tensor,
    signs: torch.Tensor,
    modulus: int,
    stream: int,
    start: int,
    word: torch.Tensor,
) -> None:
    """values[i] += Σ_m signs[m] · residue start + i of key m's stream, mod p.

    Args:
        values: int32 (length,), contiguous and not empty, written in place.
        keys: int32 (masks, 8), contiguous.
        signs: int32 (masks,), contiguous, 1 or -1.
        modulus: any prime below 2^31.
        stream: from 0 to 2^32 - 1.
        start: index of the first residue.
        word: gets bit 1 when an element lies outside [0, p), bit 4 when 16 candidates in a row
            were rejected.
    """
    block, lead = divmod(start, 16)
    low_bits = (1 << (modulus - 1).bit_length()) - 1
    grid = (ceil_div(lead + values.shape[0], 16 * LANES),)
    with torch.cuda.device_of(values):
        add_masks_kernel[grid](
            *(values, keys, signs, word, signed32(block), lead, values.shape[0], len(signs)),
            *(signed32(stream), domain_of(RESIDUES, modulus), modulus, low_bits),
            LANES=LANES,
        )

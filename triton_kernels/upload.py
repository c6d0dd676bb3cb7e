"""A client's upload in Triton, in one pass: neither bare residues nor masks are ever in memory."""

import torch
import triton
import triton.language as tl

from .common import ALL_REJECTED, NOT_FINITE, ceil_div, clear_shared, report_any, signed32
from .fixed import rounded_tile
from .pairwise import masked_tile
from .random import LANES, RESIDUES, ROUNDING, domain_of, tile_of_blocks


@triton.jit(
    do_not_specialize=[
        *("values", "key", "keys", "signs", "scale", "clip", "weight", "block", "lead", "count"),
        *("masks", "stream", "domain", "modulus", "low_bits"),
    ]
)
def quantize_mask_kernel(
    out,
    values,
    key,  # int32 (8,), or None: round to nearest
    keys,  # (masks, 8)
    signs,  # (masks,): 1 or -1
    word,
    scale: tl.float32,
    clip: tl.float32,
    weight: tl.int32,
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    masks: tl.int64,
    stream: tl.int32,
    domain: tl.int32,
    modulus: tl.int32,
    low_bits: tl.int32,
    DOMAIN: tl.constexpr,
    RANDOM: tl.constexpr,
    LANES: tl.constexpr,
):
    """The masked residues of one tile of values."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    x = tl.load(values + first + local, mask=inside, other=0.0)
    rounded, unbounded = rounded_tile(x, key, counter, scale, clip, stream, DOMAIN, RANDOM)
    report_any(word, unbounded, NOT_FINITE)
    steps = rounded * weight  # at most (p - 1) / 2
    total = tl.where(steps < 0, steps + modulus, steps).to(tl.uint32, bitcast=True)
    total, failed = masked_tile(
        total, keys, signs, masks, counter, stream, domain, inside, modulus, low_bits
    )
    tl.store(out + first + local, total.to(tl.int32, bitcast=True), mask=inside)
    report_any(word, failed, ALL_REJECTED)
    clear_shared()


def quantize_mask(
    values: torch.Tensor,
    scale: float,
    clip: float,
    modulus: int,
    key: torch.Tensor | None,
    keys: torch.Tensor,
    signs: torch.Tensor,
    weight: int,
    stream: int,
    start: int,
    word: torch.Tensor,
) -> torch.Tensor:
    """Rounded values times the weight, plus the signed residues of every key, mod p.

    Args:
        values: float32 (length,).
        scale: a power of two from 2^-100 to 2^100.
        clip: exact in float32; weight · ⌈clip · scale⌉ ≤ (p - 1) / 2.
        modulus: any prime below 2^31.
        key: int32 (8,) for random rounding; None rounds half to even.
        keys: int32 (masks, 8).
        signs: int32 (masks,), 1 or -1.
        weight: from 0 on.
        stream: from 0 to 2^32 - 1.
        start: index of the first element's word and residue.
        word: gets bit 2 when a value is NaN or infinite, bit 4 when 16 candidates in a row were
            rejected.
    """
    values, keys, signs = values.contiguous(), keys.contiguous(), signs.contiguous()
    out = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    count = values.shape[0]
    if count == 0:
        return out
    block, lead = divmod(start, 16)
    low_bits = (1 << (modulus - 1).bit_length()) - 1
    with torch.cuda.device_of(out):
        quantize_mask_kernel[(ceil_div(lead + count, 16 * LANES),)](
            *(out, values, None if key is None else key.contiguous(), keys, signs, word),
            *(scale, clip, weight, signed32(block), lead, count, len(signs), signed32(stream)),
            *(domain_of(RESIDUES, modulus), modulus, low_bits),
            DOMAIN=domain_of(ROUNDING, 0),
            RANDOM=key is not None,
            LANES=LANES,
        )
    return out

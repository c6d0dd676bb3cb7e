"""ChaCha20 (RFC 8439) in Triton: random words, and residues by exact rejection.

Word i of (key, row, stream, domain) is word i mod 16 of the block with counter ⌊i/16⌋ and nonce
words (row, stream, domain), domain = purpose · 2^24 + field · 2^16 + attempt. Kernels work on whole
blocks, one in each lane, so a tile starts at a multiple of 16 whatever the first index is: that
index comes split into its block, and the words of that block that lie before it.
"""

import torch
import triton
import triton.language as tl

from .common import ALL_REJECTED, ceil_div, clear_shared, report_any, signed32

WORDS, RESIDUES, ROUNDING, PADDING = range(4)
SELECTION = 7
ATTEMPTS = tl.constexpr(16)
LANES = 128  # blocks in a program: one for each thread of 4 warps
FIELD_IDS = {2**31 - 2**17 + 1: 1, 2**31 - 1: 2, 2**31 - 2**19 + 1: 3}


def domain_of(purpose: int, modulus: int) -> int:
    """The third nonce word of attempt 0; the field's number is 0 for fields of tests."""
    return purpose << 24 | FIELD_IDS.get(modulus, 0) << 16


@triton.jit
def _quarter(a, b, c, d):
    a = tl.add(a, b, sanitize_overflow=False)  # wraps on purpose: not an error in debug builds
    d ^= a
    d = (d << 16) | (d >> 16)
    c = tl.add(c, d, sanitize_overflow=False)
    b ^= c
    b = (b << 12) | (b >> 20)
    a = tl.add(a, b, sanitize_overflow=False)
    d ^= a
    d = (d << 8) | (d >> 24)
    c = tl.add(c, d, sanitize_overflow=False)
    b ^= c
    b = (b << 7) | (b >> 25)
    return a, b, c, d


@triton.jit
def _add4(a, b, c, d, e, f, g, h):
    a = tl.add(a, e, sanitize_overflow=False)
    b = tl.add(b, f, sanitize_overflow=False)
    c = tl.add(c, g, sanitize_overflow=False)
    return a, b, c, tl.add(d, h, sanitize_overflow=False)


@triton.jit
def chacha20(key, counter, row, stream, domain):
    """The blocks of a tile of counters.

    Args:
        key: pointer to the 8 words of the key, int32.
        counter: uint32 tile of any shape.
        row: uint32, a scalar or a tile of the same shape.
        stream: uint32 scalar.
        domain: uint32 scalar.

    Returns:
        uint32 (*shape, 2, 2, 2, 2): the words of each block; reshape it to (*shape, 16).
    """
    zero = tl.zeros_like(counter)
    k0 = zero + tl.load(key).to(tl.uint32, bitcast=True)
    k1 = zero + tl.load(key + 1).to(tl.uint32, bitcast=True)
    k2 = zero + tl.load(key + 2).to(tl.uint32, bitcast=True)
    k3 = zero + tl.load(key + 3).to(tl.uint32, bitcast=True)
    k4 = zero + tl.load(key + 4).to(tl.uint32, bitcast=True)
    k5 = zero + tl.load(key + 5).to(tl.uint32, bitcast=True)
    k6 = zero + tl.load(key + 6).to(tl.uint32, bitcast=True)
    k7 = zero + tl.load(key + 7).to(tl.uint32, bitcast=True)
    s0, s1, s2, s3 = zero + 0x61707865, zero + 0x3320646E, zero + 0x79622D32, zero + 0x6B206574
    x0, x1, x2, x3 = s0, s1, s2, s3
    x4, x5, x6, x7, x8, x9, x10, x11 = k0, k1, k2, k3, k4, k5, k6, k7
    x12, x13, x14, x15 = counter, zero + row, zero + stream, zero + domain
    for _ in range(10):
        x0, x4, x8, x12 = _quarter(x0, x4, x8, x12)
        x1, x5, x9, x13 = _quarter(x1, x5, x9, x13)
        x2, x6, x10, x14 = _quarter(x2, x6, x10, x14)
        x3, x7, x11, x15 = _quarter(x3, x7, x11, x15)
        x0, x5, x10, x15 = _quarter(x0, x5, x10, x15)
        x1, x6, x11, x12 = _quarter(x1, x6, x11, x12)
        x2, x7, x8, x13 = _quarter(x2, x7, x8, x13)
        x3, x4, x9, x14 = _quarter(x3, x4, x9, x14)
    x0, x1, x2, x3 = _add4(x0, x1, x2, x3, s0, s1, s2, s3)
    x4, x5, x6, x7 = _add4(x4, x5, x6, x7, k0, k1, k2, k3)
    x8, x9, x10, x11 = _add4(x8, x9, x10, x11, k4, k5, k6, k7)
    x12, x13, x14, x15 = _add4(x12, x13, x14, x15, counter, row, stream, domain)
    # A join appends the lowest dimension, so the highest bit of the word's number goes first.
    even = tl.join(
        tl.join(tl.join(x0, x8), tl.join(x4, x12)), tl.join(tl.join(x2, x10), tl.join(x6, x14))
    )
    odd = tl.join(
        tl.join(tl.join(x1, x9), tl.join(x5, x13)), tl.join(tl.join(x3, x11), tl.join(x7, x15))
    )
    return tl.join(even, odd)


@triton.jit
def residues(key, counter, row, stream, domain, wanted, modulus, mask):
    """The residues of a tile of blocks, each the first candidate below the modulus.

    All candidates are drawn at once; the rare programs that hold a rejected one draw the next
    attempt of the whole tile, and take from it what was rejected.

    Args:
        key: pointer to the 8 words of the key, int32.
        counter: uint32 tile of any shape.
        row: uint32, a scalar or a tile of the same shape.
        stream: uint32 scalar.
        domain: uint32 scalar, that of attempt 0.
        wanted: bool (*shape, 16): which of the residues are used; others may stay rejected.
        modulus: uint32 scalar.
        mask: uint32 scalar, the low bits that make a candidate.

    Returns:
        uint32 (*shape, 16), and bool (*shape, 16), true where all 16 attempts were rejected.
    """
    value = tl.reshape(chacha20(key, counter, row, stream, domain), wanted.shape) & mask
    rejected = wanted & (value >= modulus)
    attempt = 1
    while (tl.max(rejected.to(tl.int32)) != 0) & (attempt < ATTEMPTS):
        again = tl.reshape(chacha20(key, counter, row, stream, domain + attempt), wanted.shape)
        value = tl.where(rejected, again & mask, value)
        rejected = rejected & (value >= modulus)
        attempt += 1
    return value, rejected


@triton.jit
def tile_of_blocks(block, lead, count, LANES: tl.constexpr):
    """The blocks of this program, and where their words go.

    Returns:
        uint32 (LANES,): counters. int64 scalar: index of this tile's first word, which is negative
        by ``lead`` in the first tile. int32 (LANES, 16): what to add for each word. Bool
        (LANES, 16): which of the words are asked for.
    """
    lane = tl.arange(0, LANES)
    tile = tl.program_id(0).to(tl.int64) * LANES
    counter = tl.add(block.to(tl.uint32), (tile + lane).to(tl.uint32), sanitize_overflow=False)
    local = lane[:, None] * 16 + tl.arange(0, 16)[None, :]
    first = tile * 16 - lead
    return counter, first, local, (local >= -first) & (local < count - first)


@triton.jit(do_not_specialize=["key", "block", "lead", "count", "stream", "domain"])
def random_words_kernel(
    out,
    key,
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    stream: tl.int32,
    domain: tl.int32,
    LANES: tl.constexpr,
):
    """The words of one tile of blocks."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    stream = stream.to(tl.uint32)
    words = chacha20(key, counter, stream * 0, stream, domain.to(tl.uint32))
    words = tl.reshape(words, (LANES, 16)).to(tl.int32, bitcast=True)
    tl.store(out + first + local, words, mask=inside)
    clear_shared()


@triton.jit(
    do_not_specialize=[
        *("key", "block", "lead", "count", "stream", "domain", "modulus", "low_bits"),
    ]
)
def random_residues_kernel(
    out,
    key,
    word,
    block: tl.int32,
    lead: tl.int32,
    count: tl.int64,
    stream: tl.int32,
    domain: tl.int32,
    modulus: tl.int32,
    low_bits: tl.int32,
    LANES: tl.constexpr,
):
    """The residues of one tile of blocks."""
    counter, first, local, inside = tile_of_blocks(block, lead, count, LANES)
    stream, domain = stream.to(tl.uint32), domain.to(tl.uint32)
    modulus, low_bits = modulus.to(tl.uint32), low_bits.to(tl.uint32)
    value, failed = residues(key, counter, stream * 0, stream, domain, inside, modulus, low_bits)
    tl.store(out + first + local, value.to(tl.int32, bitcast=True), mask=inside)
    report_any(word, failed, ALL_REJECTED)
    clear_shared()


def random_words(
    key: torch.Tensor, count: int, stream: int, start: int, purpose: int = WORDS
) -> torch.Tensor:
    """Words start … start + count - 1 of a key's stream: int32 (count,).

    Args:
        key: int32 (8,).
        count: how many; start + count ≤ 2^36.
        stream: from 0 to 2^32 - 1.
        start: index of the first word.
        purpose: what the words are for.
    """
    out = torch.empty(count, dtype=torch.int32, device=key.device)
    if count == 0:
        return out
    key = key.contiguous()
    block, lead = divmod(start, 16)
    grid = (ceil_div(lead + count, 16 * LANES),)
    with torch.cuda.device_of(out):
        random_words_kernel[grid](
            *(out, key, signed32(block), lead, count, signed32(stream), domain_of(purpose, 0)),
            LANES=LANES,
        )
    return out


def random_residues(
    key: torch.Tensor, count: int, modulus: int, stream: int, start: int, word: torch.Tensor
) -> torch.Tensor:
    """Residues start … start + count - 1 of a key's stream, uniform on [0, p): int32 (count,).

    Args:
        key: int32 (8,).
        count: how many; start + count ≤ 2^36.
        modulus: any prime below 2^31.
        stream: from 0 to 2^32 - 1.
        start: index of the first residue.
        word: gets bit 4 when 16 candidates in a row were rejected.
    """
    out = torch.empty(count, dtype=torch.int32, device=key.device)
    if count == 0:
        return out
    key = key.contiguous()
    block, lead = divmod(start, 16)
    low_bits = (1 << (modulus - 1).bit_length()) - 1
    grid = (ceil_div(lead + count, 16 * LANES),)
    with torch.cuda.device_of(out):
        random_residues_kernel[grid](
            *(out, key, word, signed32(block), lead, count, signed32(stream)),
            *(domain_of(RESIDUES, modulus), modulus, low_bits),
            LANES=LANES,
        )
    return out

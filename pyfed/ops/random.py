"""Random words and residues from ChaCha20 (RFC 8439), the same on every device.

Word i of (key, row, stream, domain) is word i mod 16 of the block with counter i // 16 and nonce
words (row, stream, domain), where domain = purpose · 2^24 + field · 2^16 + attempt. So any range
can be made anywhere, and no two purposes ever share a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyfed import native
from pyfed.checks import (
    ALL_REJECTED,
    INDICES,
    STREAMS,
    expect_device,
    expect_field,
    expect_int,
    expect_key,
    expect_range,
    report,
)
from pyfed.fields import Field, field_id
from pyfed.keys import Key
from pyfed.op import Op

WORDS, RESIDUES, ROUNDING, PADDING, NOISE, CHALLENGE, SKETCH, SELECTION = range(8)
ATTEMPTS = 16
_LOW32 = 0xFFFFFFFF
_QUARTERS = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
)


def domain(purpose: int, modulus: int = 0, attempt: int = 0) -> int:
    """The third nonce word."""
    return purpose << 24 | field_id(modulus) << 16 | attempt


def _rotated(x: torch.Tensor, bits: int) -> torch.Tensor:
    return ((x << bits) | (x >> (32 - bits))) & _LOW32


def chacha_blocks(
    key: torch.Tensor, counters: torch.Tensor, nonce: Sequence[int | torch.Tensor]
) -> torch.Tensor:
    """Blocks of ChaCha20: counters int64 (blocks,) → words in [0, 2^32), int64 (blocks, 16).

    A nonce word is one number for all blocks, or int64 (blocks,).
    """
    constants = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)
    single = [0 if isinstance(word, torch.Tensor) else word for word in nonce]
    fixed = torch.tensor([*constants, 0, *single], dtype=torch.int64, device=key.device)
    words = [*fixed[:4], *(key.to(torch.int64) & _LOW32), *fixed[4:]]
    words[12] = counters
    for place, word in enumerate(nonce, start=13):
        if isinstance(word, torch.Tensor):
            words[place] = word
    state = [word.expand(counters.shape) for word in words]
    start = list(state)
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & _LOW32
                state[z] = _rotated(state[z] ^ state[x], bits)
    return torch.stack([(a + b) & _LOW32 for a, b in zip(state, start, strict=True)], dim=1)


def words_reference(key: torch.Tensor, start: int, count: int, nonce: list[int]) -> torch.Tensor:
    """Words start … start + count - 1 as int64 in [0, 2^32): (count,)."""
    first = start // 16
    blocks = -(-(start + count) // 16) - first
    counters = torch.arange(first, first + blocks, dtype=torch.int64, device=key.device)
    words = chacha_blocks(key, counters, nonce).reshape(-1)
    return words[start - 16 * first : start - 16 * first + count]


def residues_reference(
    key: torch.Tensor, start: int, count: int, row: int, stream: int, purpose: int, modulus: int
) -> torch.Tensor:
    """Residues start … start + count - 1 by exact rejection, as int64: (count,)."""
    mask = (1 << (modulus - 1).bit_length()) - 1
    nonce = [row, stream, domain(purpose, modulus)]
    values = words_reference(key, start, count, nonce) & mask
    for attempt in range(1, ATTEMPTS):
        rejected = torch.nonzero(values >= modulus).flatten()
        if rejected.numel() == 0:
            return values
        index = rejected + start
        nonce[2] = domain(purpose, modulus, attempt)
        words = chacha_blocks(key, index // 16, nonce).gather(1, (index % 16)[:, None])
        values[rejected] = words[:, 0] & mask
    report("random_residues", values >= modulus, ALL_REJECTED)
    return values


def signed32(words: torch.Tensor) -> torch.Tensor:
    """Words in [0, 2^32) as int32 with the same bits."""
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _random_words_reference(key: torch.Tensor, count: int, stream: int, start: int) -> torch.Tensor:
    return signed32(words_reference(key, start, count, [0, stream, domain(WORDS)]))


@native.each_plane(2)
def _random_residues_reference(
    key: torch.Tensor, count: int, modulus: int, stream: int, start: int
) -> torch.Tensor:
    return residues_reference(key, start, count, 0, stream, RESIDUES, modulus).to(torch.int32)


def _random_fake(key: torch.Tensor, count: int, *rest: Any) -> torch.Tensor:
    return key.new_empty(count, dtype=torch.int32)


def _random_residues_fake(key: torch.Tensor, count: int, modulus: int, *rest: Any) -> torch.Tensor:
    return key.new_empty(_residues_shape(count, modulus), dtype=torch.int32)


def _residues_shape(count: int, modulus: int) -> tuple[int, ...]:
    return (count,) if modulus < 2**31 else (2, count)


random_words_op = Op(
    "random_words(Tensor key, SymInt count, int stream, int start) -> Tensor",
    fake=_random_fake,
    reference=_random_words_reference,
)
random_residues_op = Op(
    "random_residues(Tensor key, SymInt count, int modulus, int stream, int start) -> Tensor",
    fake=_random_residues_fake,
    reference=_random_residues_reference,
)


@random_words_op.kernel("cpu", when=lambda key, *rest: native.cpu_reason(key))
@random_words_op.kernel("cuda", when=lambda key, *rest: native.cuda_reason(key))
def _random_words_native(key: torch.Tensor, count: int, stream: int, start: int) -> torch.Tensor:
    out = torch.empty(count, dtype=torch.int32, device=key.device)
    key = key.contiguous()
    native.run("random_words", key.device, key, start, count, stream, out)
    return out


@random_residues_op.kernel("cpu", when=lambda key, *rest: native.cpu_reason(key))
@random_residues_op.kernel("cuda", when=lambda key, *rest: native.cuda_reason(key))
def _random_residues_native(
    key: torch.Tensor, count: int, modulus: int, stream: int, start: int
) -> torch.Tensor:
    out = torch.empty(_residues_shape(count, modulus), dtype=torch.int32, device=key.device)
    key = key.contiguous()
    for prime, plane in native.planes(modulus, out):
        native.run("random_residues", key.device, key, start, count, stream, prime, plane)
    return out


@random_words_op.kernel("triton", when=lambda key, *rest: native.triton_reason(key))
def _random_words_triton(key: torch.Tensor, count: int, stream: int, start: int) -> Any:
    from pyfed.triton_kernels import random as kernels

    return kernels.random_words(key, count, stream, start)


@random_residues_op.kernel("triton", when=lambda key, *rest: native.triton_reason(key))
@native.each_plane(2)
def _random_residues_triton(
    key: torch.Tensor, count: int, modulus: int, stream: int, start: int
) -> Any:
    from pyfed.triton_kernels import random as kernels

    with native.TritonReport("random_residues", key.device) as word:
        return kernels.random_residues(key, count, modulus, stream, start, word)


def _prepare(op: str, key: Key, count: int, stream: int, start: int) -> None:
    expect_key(op, key)
    expect_int(op, "count", count, 0, INDICES + 1)
    expect_int(op, "stream", stream, 0, STREAMS)
    expect_range(op, start, count)


@random_words_op.public
def random_words(
    key: Key, count: int, stream: int = 0, start: int = 0, device: torch.device | str = "cpu"
) -> tuple[Any, ...]:
    """Raw ChaCha20 words: element i is word ``start + i`` of the key's stream.

    Args:
        key: the secret key.
        count: how many words.
        stream: which of 2^32 independent streams of the key.
        start: index of the first word; start + count ≤ 2^36.
        device: where the words are made.

    Returns:
        int32 tensor of shape (count,), holding the bit patterns of the unsigned words.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: an argument is out of range.

    Source: RFC 8439, section 2.3, addressed as this module's docstring says.

    Example:
        >>> import pyfed
        >>> key = pyfed.Key(bytes(range(32)))
        >>> pyfed.ops.random_words(key, 2)
        tensor([2100034873, 1780073945], dtype=torch.int32)
    """
    _prepare("random_words", key, count, stream, start)
    return key.words(expect_device("random_words", device)), count, stream, start


@random_residues_op.public
def random_residues(
    key: Key,
    count: int,
    field: Field,
    stream: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[Any, ...]:
    """Exactly uniform field elements: element i is residue ``start + i`` of the key's stream.

    A candidate is the low bits (as many as p - 1 has, so 31 for the library's fields) of a word;
    one that is p or more is replaced by the same word of the next attempt's stream. So every
    residue has a fixed place, and any range can be made anywhere.

    Args:
        key: the secret key.
        count: how many residues.
        field: the prime field; every prime below 2^31 has kernels here. Over ``WIDE`` the result
            is (2, count), its planes independent.
        stream: which of 2^32 independent streams of the key.
        start: index of the first residue; start + count ≤ 2^36.
        device: where the residues are made.

    Returns:
        int32 tensor of shape (count,), each element uniform on [0, p).

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: an argument is out of range.

    Example:
        >>> import pyfed
        >>> key = pyfed.Key(bytes(range(32)))
        >>> pyfed.ops.random_residues(key, 1, pyfed.SOLINAS31, stream=7)
        tensor([1255483152], dtype=torch.int32)
    """
    expect_field("random_residues", field, wide=True)
    _prepare("random_residues", key, count, stream, start)
    words = key.words(expect_device("random_residues", device))
    return words, count, field.code, stream, start

"""Encoding, decoding and masking of vectors that are longer than memory, chunk by chunk.

Shares, masks and rounding are addressed by column and element, so the chunks of a stream hold the
same bits as one piece would, and any range of them can be made anywhere: a later part of a file, or
on another GPU. A stream holds two chunks at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pyfed.checks import STREAMS, expect_device, expect_int
from pyfed.chunks import (
    CHUNK,
    FLOATS,
    LivingKeys,
    Regrouped,
    chunk_size,
    expect_fixed,
    naming_chunk,
    pieces_of,
    shard,
)
from pyfed.codes import LagrangeCode
from pyfed.errors import DtypeError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key
from pyfed.ops.pairwise import add_masks_
from pyfed.ops.stacked import expect_masks
from pyfed.ops.upload import quantize_mask
from pyfed.staging import staged
from pyfed.stream_rows import decode_stream

__all__ = ["CHUNK", "decode_stream", "encode_stream", "shard", "upload_stream"]


def encode_stream(
    code: LagrangeCode,
    source: Any,
    key: Key | None = None,
    *,
    fixed: FixedPoint | None = None,
    stream: int = 0,
    start_column: int = 0,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """The shares of a long vector, some columns at a time.

    All that is yielded, put side by side, is ``code.encode(vector, key, stream, start_column)``;
    with ``fixed`` the vector is ``fixed.encode(values, key, stream=stream,
    start=start_column · blocks)``.

    Args:
        code: makes the shares.
        source: residues, int32, or with ``fixed`` float32, float16 or bfloat16: a tensor, an array
            such as ``numpy.memmap``, a mapping of them, or an iterable of any of these, which is
            read once and in order. Over ``WIDE`` residues have a leading axis of 2 planes.
        key: as :meth:`LagrangeCode.encode` has it; None: a fresh one for the whole stream. One
            that is given may be wiped after the last chunk, not before.
        fixed: how floats become residues of the code's field.
        stream: which of the key's streams.
        start_column: number of the source's first column in the whole vector.
        chunk: elements of a chunk, rounded down to whole columns, but one at least.
        device: where shares are made. To a GPU the next chunk is copied meanwhile.

    Yields:
        The number of the first column, and int32 (shares, columns), on the device.

    Raises:
        DtypeError: an argument or a part of the source has a wrong type.
        ArgumentError: an argument is out of range, or an element is no residue or not finite: its
            place in the whole vector is named (on CUDA: :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> from pyfed.streaming import encode_stream
        >>> code = pyfed.LagrangeCode(shares=3, blocks=2, privacy=1)
        >>> key, data = pyfed.Key(bytes(32)), torch.arange(10, dtype=torch.int32)
        >>> parts = list(encode_stream(code, data, key, chunk=4))
        >>> [(column, tuple(shares.shape)) for column, shares in parts]
        [(0, (3, 2)), (2, (3, 2)), (4, (3, 1))]
        >>> torch.equal(torch.cat([s for _, s in parts], dim=1), code.encode(data, key))
        True
    """
    op = "encode_stream"
    if not isinstance(code, LagrangeCode):
        raise DtypeError(f"{op}: code is {type(code).__name__}; it must be a pyfed.LagrangeCode")
    expect_fixed(op, fixed, code.field)
    living = LivingKeys(op, [key])
    expect_int(op, "stream", stream, 0, STREAMS)
    expect_int(op, "start_column", start_column, 0, 2**36)
    size, place = chunk_size(op, chunk, code.blocks), expect_device(op, device)
    return _encoded(code, source, key, living, fixed, stream, start_column, size, place)


def _encoded(
    code: LagrangeCode,
    source: Any,
    key: Key | None,
    living: LivingKeys,
    fixed: FixedPoint | None,
    stream: int,
    column: int,
    size: int,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    op, used = "encode_stream", Key.generate() if key is None else key
    lead = code.field.lead if fixed is None else ()
    dtypes = (torch.int32,) if fixed is None else FLOATS
    pieces = pieces_of(op, source, size, lead)
    try:
        for part in staged(Regrouped(op, pieces, size, dtypes), device):
            living.expect()
            with naming_chunk(op, "source", part, code.field, "element", column * code.blocks):
                shares = code.encode(part, used, stream, column, fixed)
            yield column, shares
            column += shares.shape[-1]
    finally:
        if key is None:
            used.wipe()


def upload_stream(
    fixed: FixedPoint,
    source: Any,
    key: Key | None,
    mask_keys: Sequence[Key],
    signs: Sequence[int],
    *,
    weight: int = 1,
    stream: int = 0,
    mask_stream: int = 0,
    start: int = 0,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """A client's masked update, some elements at a time.

    All that is yielded, put end to end, is ``fixed.encode(values, key, weight, stream, start)``
    after ``add_masks_(…, mask_keys, signs, fixed.field, mask_stream, start)``.

    Args:
        fixed: how floats become residues.
        source: float32, float16 or bfloat16, as :func:`encode_stream` takes it.
        key: makes the rounding unbiased; None rounds to nearest.
        mask_keys: the keys of the masks; to be wiped after the last chunk, not before.
        signs: +1 or -1 for each of them.
        weight: an integer from 0 to the ``max_weight`` of ``fixed``.
        stream: which of the key's streams.
        mask_stream: which stream of the masks' keys.
        start: number of the source's first element in the whole vector.
        chunk: elements of a chunk.
        device: where it is done. To a GPU the next chunk is copied meanwhile.

    Yields:
        The number of the first element, and int32 (elements,), on the device; over ``WIDE``
        (2, elements).

    Raises:
        DtypeError: an argument or a part of the source has a wrong type.
        ArgumentError: an argument is out of range, or a value is not finite: its place in the whole
            vector is named (on CUDA: :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> from pyfed.streaming import upload_stream
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=2)
        >>> mine, shared = (pyfed.Key(bytes([i] * 32)) for i in (1, 2))
        >>> values = torch.linspace(-1, 1, 10)
        >>> parts = dict(upload_stream(fixed, values, mine, [shared], [1], chunk=4))
        >>> list(parts)
        [0, 4, 8]
    """
    op = "upload_stream"
    if not isinstance(fixed, FixedPoint):
        raise DtypeError(f"{op}: fixed is {type(fixed).__name__}; it must be a pyfed.FixedPoint")
    fixed.check_weight(weight)
    expect_masks(op, mask_keys, signs)  # now, not by the first chunk
    for name, number in (("stream", stream), ("mask_stream", mask_stream)):
        expect_int(op, name, number, 0, STREAMS)
    expect_int(op, "start", start, 0, 2**36)
    size, place = chunk_size(op, chunk, 1), expect_device(op, device)
    living, masks = LivingKeys(op, [key, *mask_keys]), ([*mask_keys], [*signs])
    return _masked(
        fixed, source, key, masks, living, weight, stream, mask_stream, start, size, place
    )


def _masked(
    fixed: FixedPoint,
    source: Any,
    key: Key | None,
    masks: tuple[list[Key], list[int]],
    living: LivingKeys,
    weight: int,
    stream: int,
    mask_stream: int,
    at: int,
    size: int,
    device: torch.device,
) -> Iterator[tuple[int, torch.Tensor]]:
    op, field = "upload_stream", fixed.field
    for part in staged(Regrouped(op, pieces_of(op, source, size, ()), size, FLOATS), device):
        living.expect()
        with naming_chunk(op, "source", part, field, "element", at):
            if stream == mask_stream and not field.lead:  # one pass over the chunk
                how = (fixed.scale, fixed.clip, field, *masks, key, weight)
                residues = quantize_mask(part, *how, stream, at)
            else:
                residues = fixed.encode(part, key, weight, stream, at)
                add_masks_(residues, *masks, field, mask_stream, at)
        yield at, residues
        at += part.numel()

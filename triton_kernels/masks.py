"""Bit-packed masks in Triton: packing, unpacking, and the set bits of each row.

Rows whose length is no multiple of 8 start at any byte of the unpacked side, so they are taken row
by row; all others lie without a gap and are one row to the kernels, which then know how it is
aligned. Many short rows share a program.
"""

import torch
import triton
import triton.language as tl

from .common import BAD_PADDING, ceil_div, load_tile, report_any, store_tile

WIDE = {"ROWS": 1, "BYTES": 512}
TALL = {"ROWS": 32, "BYTES": 8}


def tiles_for(width: int) -> dict[str, int]:
    """The tile for rows of ``width`` bytes."""
    return TALL if width <= 4 * TALL["BYTES"] else WIDE


@triton.jit
def row_tile(width, FLAT: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """The rows, int64 (ROWS, 1), and the bytes in them, int64 (1, BYTES), of this program."""
    tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)[:, None].to(tl.int64)
    byte = tl.arange(0, BYTES)[None, :].to(tl.int64)
    if FLAT:
        return row, tile * BYTES + byte
    across = (width + BYTES - 1) // BYTES
    return tile // across * ROWS + row, tile % across * BYTES + byte


@triton.jit
def element_tile(row, byte, rows, length, FLAT: tl.constexpr):
    """The elements of a tile of bytes: (ROWS, BYTES, 8).

    Returns:
        Where they are; which there are; whether they are all there, in one piece.
    """
    element = byte[:, :, None] * 8 + tl.arange(0, 8)[None, None, :]
    inside = element < length
    if FLAT:
        return element, inside, (tl.program_id(0) + 1).to(tl.int64) * (byte.shape[1] * 8) <= length
    return row[:, :, None] * length + element, inside & (row < rows)[:, :, None], False


@triton.jit(do_not_specialize=["rows", "length", "width"])
def pack_kernel(
    out,  # uint8 (rows, width)
    mask,  # uint8 (rows, length), 0 or 1
    rows: tl.int64,
    length: tl.int64,
    width: tl.int64,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """The bytes of one tile."""
    row, byte = row_tile(width, FLAT, ROWS, BYTES)
    offset, inside, full = element_tile(row, byte, rows, length, FLAT)
    bit = load_tile(mask + offset, inside, full)
    value = tl.sum(bit.to(tl.int32) << tl.arange(0, 8)[None, None, :], 2)
    target = byte if FLAT else row * width + byte
    tl.store(out + target, value.to(tl.uint8), mask=(row < rows) & (byte < width))


@triton.jit(do_not_specialize=["rows", "length", "width"])
def unpack_kernel(
    out,  # uint8 (rows, length)
    packed,  # uint8 (rows, width)
    word,
    rows: tl.int64,
    length: tl.int64,
    width: tl.int64,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """The elements of one tile."""
    row, byte = row_tile(width, FLAT, ROWS, BYTES)
    source = byte if FLAT else row * width + byte
    value = tl.load(packed + source, mask=(row < rows) & (byte < width), other=0)
    bit = (value[:, :, None] >> tl.arange(0, 8)[None, None, :].to(tl.uint8)) & 1
    offset, inside, full = element_tile(row, byte, rows, length, FLAT)
    store_tile(out + offset, bit, inside, full)
    report_any(word, (bit != 0) & ~inside, BAD_PADDING)  # bytes that are not there were read as 0


@triton.jit
def set_bits(word):
    """How many bits of each uint32 are set, as int32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 0x3F).to(tl.int32)


@triton.jit(do_not_specialize=["rows", "length", "width"])
def popcount_kernel(
    out,  # int64 (rows,), zeros before
    packed,  # uint8 (rows, width)
    word,
    rows: tl.int64,
    length: tl.int64,
    width: tl.int64,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Adds the set bits of one tile to the counts of its rows; sums of integers have no order."""
    row, byte = row_tile(width, FLAT, ROWS, BYTES)
    source = byte if FLAT else row * width + byte
    value = tl.load(packed + source, mask=(row < rows) & (byte < width), other=0).to(tl.uint32)
    beyond = (value >> (length - (width - 1) * 8).to(tl.uint32)) != 0
    report_any(word, beyond & (byte == width - 1), BAD_PADDING)
    quads = tl.reshape(value, (ROWS, BYTES // 4, 4))
    joined = tl.sum(quads << (tl.arange(0, 4) * 8)[None, None, :].to(tl.uint32), 2)
    total = tl.sum(set_bits(joined), 1)
    first = tl.sum(row, 1)
    tl.atomic_add(out + first, total.to(tl.int64), mask=(first < rows) & (total != 0))


def _layout(rows: int, length: int, whole_bytes: bool) -> tuple[tuple[int, ...], bool]:
    """(rows, length, width) as the kernels take them, and whether they are one row."""
    flat = rows == 1 or (whole_bytes and length % 8 == 0)
    if flat:
        rows, length = 1, rows * length
    return (rows, length, ceil_div(length, 8)), flat


def _launch(
    kernel: triton.JITFunction,
    tensors: tuple[torch.Tensor, ...],
    layout: tuple[int, ...],
    flat: bool,
) -> None:
    """Start a kernel on all rows."""
    rows, _, width = layout
    tile = WIDE if flat else tiles_for(width)
    grid = (ceil_div(rows, tile["ROWS"]) * ceil_div(width, tile["BYTES"]),)
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](*tensors, *layout, FLAT=flat, **tile)


def mask_pack(mask: torch.Tensor) -> torch.Tensor:
    """Pack masks into bits: bool (…, length) → uint8 (…, ⌈length / 8⌉).

    Args:
        mask: at least one dimension.
    """
    mask = mask.contiguous()
    rows, length = mask.shape[:-1].numel(), mask.shape[-1]
    out = torch.empty(*mask.shape[:-1], ceil_div(length, 8), dtype=torch.uint8, device=mask.device)
    if out.numel() > 0:
        layout, flat = _layout(rows, length, True)
        _launch(pack_kernel, (out, mask.view(torch.uint8)), layout, flat)
    return out


def mask_unpack(packed: torch.Tensor, length: int, word: torch.Tensor) -> torch.Tensor:
    """Unpack bits into masks: uint8 (…, ⌈length / 8⌉) → bool (…, length).

    Args:
        packed: the bytes.
        length: elements of a row.
        word: gets bit 8 when a bit behind the last element of a row is set.
    """
    packed = packed.contiguous()
    out = torch.empty(*packed.shape[:-1], length, dtype=torch.bool, device=packed.device)
    if out.numel() > 0:
        layout, flat = _layout(packed.shape[:-1].numel(), length, True)
        _launch(unpack_kernel, (out.view(torch.uint8), packed, word), layout, flat)
    return out


def mask_popcount(packed: torch.Tensor, length: int, word: torch.Tensor) -> torch.Tensor:
    """Count the set bits of every row: uint8 (…, ⌈length / 8⌉) → int64 (…).

    Args:
        packed: the bytes.
        length: elements of a row.
        word: gets bit 8 when a bit behind the last element of a row is set.
    """
    packed = packed.contiguous()
    out = torch.zeros(packed.shape[:-1], dtype=torch.int64, device=packed.device)
    if packed.numel() > 0:
        layout, flat = _layout(out.numel(), length, False)
        _launch(popcount_kernel, (out, packed, word), layout, flat)
    return out

"""Dropout by counter: whose rows a tile holds, and which of its elements Philox4x32-10 keeps.

A client's elements are numbered over its own rows. Word e mod 4 of block ⌊e/4⌋ decides on element
e; the block's counter ends in the client's stream. (Salmon et al., SC 2011.)
"""

import triton
import triton.language as tl

from .floats import rounded, widened


@triton.jit
def tile_owner(starts, clients, total, width, tile, SIZE: tl.constexpr):
    """Whose items a tile of at most ``SIZE`` of them holds; no tile holds those of two clients.

    Client c has the tiles from ⌊begin_c / SIZE⌋ + c on, up to the next one's; as
    ⌈(end - begin) / SIZE⌉ ≤ ⌊end / SIZE⌋ - ⌊begin / SIZE⌋ + 1, these are enough, and
    ⌊total / SIZE⌋ + clients tiles are enough for all. Those that a client does not need begin at
    or after its end. So the host need not know the starts.

    Args:
        starts: pointer to int64 (clients + 1,): rows; what lies outside [0, total] is clamped.
        clients: at least 1.
        total: items of all clients, int64.
        width: items in a row, int64.
        tile: int64 scalar.
        SIZE: items in a tile.

    Returns:
        int64 scalars: the client, its first item, where the tile begins, and the client's end.
    """
    low = tile * 0
    high = low + clients - 1
    while low < high:
        middle = (low + high + 1) // 2
        before = tl.load(starts + middle) * width // SIZE + middle <= tile
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle - 1)
    begin = tl.minimum(tl.maximum(tl.load(starts + low) * width, 0), total)
    end = tl.minimum(tl.maximum(tl.load(starts + low + 1) * width, 0), total)
    first = begin + tl.maximum(tile - begin // SIZE - low, 0) * SIZE
    return low, begin, first, end


@triton.jit
def _words(block, stream, key):
    """The four words of each block of a tile, uint32, the key's first two words being the key."""
    low = tl.load(key).to(tl.uint32, bitcast=True).to(tl.uint64)
    high = tl.load(key + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    last = tl.zeros_like(block.to(tl.uint32))
    return tl.philox(
        low | (high << 32),
        *(block.to(tl.uint32), (block >> 32).to(tl.uint32)),
        *(last + stream.to(tl.uint32), last + (stream >> 32).to(tl.uint32)),
    )


@triton.jit
def kept_in_a_row(first, stream, key, threshold, SIZE: tl.constexpr):
    """Which of ``SIZE`` elements in a row are kept: bool (SIZE,); ``first`` is a multiple of 4."""
    block = (first >> 2) + tl.arange(0, SIZE // 4)
    w0, w1, w2, w3 = _words(block, stream, key)
    # A join appends the lowest dimension, so the higher bit of the word's number goes first.
    even, odd = tl.join(w0 >= threshold, w2 >= threshold), tl.join(w1 >= threshold, w3 >= threshold)
    return tl.reshape(tl.join(even, odd), (SIZE,))


@triton.jit
def kept_in_rows(
    row,  # of the client, int64 (ROWS,)
    column,  # first of the tile, a multiple of 4
    features,  # int64
    stream,
    key,
    threshold,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,  # features is a multiple of 4, so that no block spans two rows
):
    """Which elements of a tile of a matrix are kept: bool (ROWS, COLUMNS)."""
    start = row * features + column
    if EVEN:
        block = (start >> 2)[:, None] + tl.arange(0, COLUMNS // 4)[None, :]
        w0, w1, w2, w3 = _words(block, stream, key)
        even = tl.join(w0 >= threshold, w2 >= threshold)
        odd = tl.join(w1 >= threshold, w3 >= threshold)
        return tl.reshape(tl.join(even, odd), (ROWS, COLUMNS))
    element = start[:, None] + tl.arange(0, COLUMNS)[None, :]
    w0, w1, w2, w3 = _words(element >> 2, stream, key)
    place = element & 3
    word = tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))
    return word >= threshold


@triton.jit
def dropped(value, kept, scale):
    """Survivors times ``scale``, rounded once to the dtype of ``value``; the others are 0."""
    return rounded(tl.where(kept, widened(value) * scale, 0.0), value.dtype)

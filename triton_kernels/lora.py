"""Adapters of many clients in one pass, in Triton: each row meets its own client's factors.

Two products make a layer's forward pass and four its backward pass, all of them on three kernels.
The hidden rows between two products are float32, and small.
"""

import torch

from .adapters import expand_kernel, gradient_kernel, shrink_kernel
from .common import ceil_div, signed32

FEW = 4096
"""Up to so many rows, tiles are small, so that there are enough of them."""

SMALL, LARGE = 16, 64
"""Rows in a tile. Lines that are not aligned take more registers than large tiles leave."""

COLUMNS = 64
DEPTH = 32  # rows that a step of a gradient's sum takes
PROGRAMS = 256
"""Programs that keep a GPU busy; with fewer, the sums over rows are split."""


def rank_tile(rank: int) -> int:
    """Ranks in a tile: tensor cores take 16 at least, and registers 32 at most."""
    return 16 if rank <= 16 else 32


def columns_read(x: torch.Tensor, even: bool) -> int:
    """Columns of a tile of ``x``: 128 bytes, or few enough for the addresses' registers."""
    return COLUMNS if even and x.element_size() == 2 else COLUMNS // 2


def in_units(features: int, rank: int, stride: int = 0) -> tuple[tuple[int, int, int], bool]:
    """The sizes in units of 16, 4 and 4 where they are multiples of these; and whether they are."""
    if features % 16 == 0 and rank % 4 == 0 and stride % 4 == 0:
        return (features // 16, rank // 4, stride // 4), True
    return (features, rank, stride), False


class Rows:
    """The rows of the clients and their dropout, as all kernels take them."""

    def __init__(
        self,
        x: torch.Tensor,
        starts: torch.Tensor,
        streams: torch.Tensor,
        threshold: int,
        keep: float,
    ) -> None:
        self.count = x.shape[:-1].numel()
        self.starts, self.streams, self.clients = starts, streams, len(streams)
        self.dropout = signed32(threshold), keep

    def tiles(self, even: bool) -> tuple[int, int]:
        """How many tiles the rows take, and the rows of one."""
        size = LARGE if even and self.count > FEW else SMALL
        return self.count // size + self.clients, size

    def shrink(
        self,
        x: torch.Tensor,
        factor: torch.Tensor,
        scale: torch.Tensor | None,
        key: torch.Tensor | None,
        transposed: bool,
    ) -> torch.Tensor:
        """Rows s · drop(x) Fᵀ: float32 (rows, rank); ``factor`` is (clients, rank, inner)."""
        rank, inner = factor.shape[:0:-1] if transposed else factor.shape[1:]
        out = torch.empty(self.count, rank, dtype=torch.float32, device=x.device)
        if out.numel():
            tile = rank_tile(rank)
            sizes, even = in_units(inner, rank, factor.stride(0))
            tiles, size = self.tiles(even)
            warps = 8 if size == LARGE else 4
            shrink_kernel[(tiles * ceil_div(rank, tile),)](
                *(out, x, factor, scale, key, self.streams, self.starts),
                *(self.count, *sizes, self.clients, *self.dropout),
                **{"TRANSPOSED": transposed, "EVEN": even},
                **{
                    "COLUMNS": columns_read(x, even),
                    "RANK": tile,
                    "ROWS": size,
                    "num_warps": warps,
                    "num_stages": 2,
                },
            )
        return out

    def expand(
        self,
        out: torch.Tensor,
        base: torch.Tensor | None,
        hidden: torch.Tensor,
        factor: torch.Tensor,
        scale: torch.Tensor | None,
        key: torch.Tensor | None,
        transposed: bool,
    ) -> None:
        """Write base + s · drop(H F); ``factor`` is (clients, rank, columns)."""
        rank, columns = factor.shape[:0:-1] if transposed else factor.shape[1:]
        if out.numel():
            sizes, even = in_units(columns, rank, factor.stride(0))
            tiles, size = self.tiles(even)
            expand_kernel[(tiles * ceil_div(columns, COLUMNS),)](
                *(out, base, hidden, factor, scale, key, self.streams, self.starts),
                *(self.count, *sizes, self.clients, *self.dropout),
                **{"TRANSPOSED": transposed, "EVEN": even},
                **{"COLUMNS": COLUMNS, "RANK": rank_tile(rank), "ROWS": size},
            )

    def gradient(
        self,
        like: torch.Tensor,
        hidden: torch.Tensor,
        x: torch.Tensor,
        scale: torch.Tensor | None,
        key: torch.Tensor | None,
        transposed: bool,
    ) -> torch.Tensor:
        """Sums s · Hᵀ drop(x) of every client: float32 (clients, rank, columns), as ``like``."""
        rank, columns = like.shape[:0:-1] if transposed else like.shape[1:]
        out = torch.empty(like.shape, dtype=torch.float32, device=x.device)
        if out.numel() == 0:
            return out
        tile = rank_tile(rank)
        width = columns_read(x, True)
        programs = self.clients * ceil_div(columns, width) * ceil_div(rank, tile)
        steps = self.count // (self.clients * DEPTH)  # of a client that has as many rows as others
        splits = max(1, min(PROGRAMS // programs, steps // 8))
        sizes, even = in_units(columns, rank)
        parts = out if splits == 1 else out.new_empty(splits, *out.shape)
        gradient_kernel[(programs, splits)](
            *(parts, hidden, x, scale, key, self.streams, self.starts),
            *(self.count, *sizes[:2], self.clients, *self.dropout),
            **{"TRANSPOSED": transposed, "EVEN": even},
            **{"ROWS": DEPTH, "COLUMNS": width, "RANK": tile, "num_stages": 2},
        )
        return out if splits == 1 else parts.sum(0)


def lora_linear(
    x: torch.Tensor,
    base_out: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    threshold: int,
    keep: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """base_out + s_c · (drop(x) A_cᵀ) B_cᵀ, and drop(x) A_cᵀ: like base_out; float32 (rows, rank).

    Args:
        x: float32, float16 or bfloat16 (…, in).
        base_out: likewise (…, out).
        a: float32 (clients, rank, in); views of an arena, each client's matrix contiguous.
        b: float32 (clients, out, rank), likewise.
        scale: float32 (clients,).
        starts: int64 (clients + 1,): where each client's rows begin, from 0 to their number.
        key: int32 (8,), of which two words are used, or None: no dropout.
        streams: int64 (clients,).
        threshold: smaller random words drop, from 0 to 2^32 - 1.
        keep: what survivors are multiplied by; rounded to float32.
    """
    rows = Rows(x, starts, streams, threshold, keep)
    out = torch.empty_like(base_out)
    with torch.cuda.device_of(x):
        hidden = rows.shrink(x, a, None, key, False)
        rows.expand(out, base_out, hidden, b, scale, None, True)
    return out, hidden


def lora_linear_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    hidden: torch.Tensor,
    scale: torch.Tensor,
    starts: torch.Tensor,
    key: torch.Tensor | None,
    streams: torch.Tensor,
    threshold: int,
    keep: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of :func:`lora_linear` in x, a and b: like x; float32 like a; float32 like b.

    With G = s_c · grad B_c they are drop(G A_c), Gᵀ drop(x) and s_c · gradᵀ hidden.

    Args:
        grad: of the output, (…, out), of the dtype of ``x``.
        x: as there.
        a: as there.
        b: as there.
        hidden: what it gave, float32 (rows, rank).
        scale: as there.
        starts: as there.
        key: as there.
        streams: as there.
        threshold: as there.
        keep: as there.
    """
    rows = Rows(x, starts, streams, threshold, keep)
    dx = torch.empty_like(x)
    with torch.cuda.device_of(x):
        inner = rows.shrink(grad, b, scale, None, True)
        rows.expand(dx, None, inner, a, None, key, False)
        da = rows.gradient(a, inner, x, None, key, False)
        db = rows.gradient(b, hidden, grad, scale, None, True)
    return dx, da, db

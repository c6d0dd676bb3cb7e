"""Sketches G x, and their transpose, in Triton: which kernels make them, and in what tiles.

Signs, and normals of few features or many clients: one launch, G made in each tile. Normals of one
client's many features, and transposes: panel after panel. CountSketch: a sort, then sums. Noise is
added by a launch of its own, as it needs no more than one reading of the result.
"""

import math

import torch
import triton
import triton.language as tl

from .buckets import bucket_kernel, lookup_kernel, place_kernel
from .common import NOT_FINITE, ceil_div, clear_shared, report_any, signed32
from .entries import COUNTSKETCH, GAUSSIAN, RADEMACHER, words_of
from .floats import not_finite
from .normal import EXACT, normals_of
from .panels import panel_kernel, panel_product_kernel
from .projection import SPAN, sketch_kernel

TILE = {"ROWS": 128, "num_warps": 8, **EXACT}
SIGNS = {**TILE, "COLUMNS": 64, "DEPTH": 32, "num_stages": 2}
NORMALS = {**TILE, "COLUMNS": 128, "DEPTH": 16, "num_stages": 1}
PANEL_SIGNS = {**TILE, "COLUMNS": 64, "DEPTH": 32, "num_stages": 2}
PANEL_NORMALS = {**TILE, "COLUMNS": 64, "DEPTH": 16, "num_stages": 2}

NARROW = 64  # columns of the smaller tiles
FUSED = 128
"""Features up to which one client's normals are made only once in tiles; beyond, in panels."""

PANEL = 24 << 20
"""Bytes of a panel: about half of a large GPU's L2."""

HEIGHT = 4096  # rows of a panel at most
PROGRAMS = 264
"""Programs that keep a GPU busy; with fewer, sums are split."""

NOISE_TILE = 128  # blocks in a program: one for each thread of 4 warps
SAMPLES = 1024  # samples whose places one program finds
LOOKUP = {"SAMPLES": 32, "COLUMNS": 64}
CHECK = 4096


@triton.jit(do_not_specialize=["x", "count"])
def check_kernel(x, word, count: tl.int64, BLOCK: tl.constexpr):
    """Tell of numbers that are not finite."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place, mask=place < count, other=0.0)
    report_any(word, not_finite(value), NOT_FINITE)


@triton.jit(do_not_specialize=["key", "count", "rows", "features", "stream", "deviation"])
def noise_kernel(
    out,  # float32 (clients, rows, features)
    key,  # int32 (8,)
    count: tl.int64,  # rows of all clients
    rows: tl.int64,
    features: tl.int64,
    stream: tl.int32,
    deviation: tl.float32,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,  # a multiple of 16
):
    """Add normals to one tile; a client's are those of its own rows and stream."""
    tiles = tl.cdiv(features, COLUMNS)
    line = tl.program_id(0).to(tl.int64) // tiles * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(0).to(tl.int64) % tiles * COLUMNS
    own = (stream + line // rows).to(tl.uint32)
    words = words_of(key, (line % rows).to(tl.uint32), first, own[:, None], 0, False, COLUMNS)
    column = first + tl.arange(0, COLUMNS)
    inside = (line < count)[:, None] & (column < features)[None, :]
    at = out + line[:, None] * features + column[None, :]
    value = tl.load(at, mask=inside, other=0.0)
    tl.store(at, value + normals_of(words) * deviation, mask=inside)
    clear_shared()


class Sketch:
    """One call's operands: what the samples are multiplied by, and whose they are."""

    def __init__(
        self,
        x: torch.Tensor,
        seed: torch.Tensor | None,
        key: torch.Tensor | None,
        starts: torch.Tensor,
        samples: int,
        rows: int,
        kind: int,
        stream: int,
        word: torch.Tensor,
    ) -> None:
        self.x, self.starts, self.word = x, starts, word
        self.samples, self.rows, self.features = samples, rows, x.shape[-1]
        self.clients = len(starts) - 1
        self.kind, self.stream = kind, signed32(stream)
        self.public = seed is not None
        self.source = key if seed is None else seed
        self.hidden = key is not None  # G is secret, or noise is to come: sums are nobody's to see
        self.even = self.features % 4 == 0 and x.data_ptr() % 16 == 0
        self.width = self.features // 4 if self.even else self.features

    def splits(self, programs: int, steps: int) -> int:
        """Into how many parts a sum of ``steps`` is split, so that there are enough programs."""
        return max(1, min(PROGRAMS // programs, steps))

    def parts(self, shape: tuple[int, ...], splits: int) -> torch.Tensor:
        """Room for the sums of all parts: float32 (splits, *shape)."""
        return torch.empty((splits, *shape), dtype=torch.float32, device=self.x.device)

    def total(self, parts: torch.Tensor) -> torch.Tensor:
        """The sum of all parts, in their order; they are wiped if what they tell is hidden."""
        found = parts[0] if len(parts) == 1 else parts.sum(0)
        if self.hidden and len(parts) > 1:
            parts.zero_()
        return found

    def fused(self) -> torch.Tensor:
        """Every client's G x in one launch: (clients, rows, features)."""
        tile = dict(SIGNS if self.kind == RADEMACHER.value else NORMALS)
        if self.features <= NARROW or not self.even:  # unaligned lines take registers
            tile["COLUMNS"] = NARROW
        tiles = ceil_div(self.rows, tile["ROWS"]) * ceil_div(self.features, tile["COLUMNS"])
        programs = self.clients * tiles
        splits = self.splits(programs, self.samples // (self.clients * 2 * SPAN.value))
        out = self.parts((self.clients, self.rows, self.features), splits)
        sketch_kernel[(programs, splits)](
            *(out, self.x, self.source, self.starts, self.word),
            *(self.samples, self.rows, self.width, self.clients, self.stream),
            **{"KIND": self.kind, "PUBLIC": self.public, "EVEN": self.even},
            **tile,
        )
        return self.total(out)

    def panels(self, transpose: bool) -> torch.Tensor:
        """One client's G x, (1, rows, features); or every client's Gᵀ x, (samples, features)."""
        signs = self.kind == RADEMACHER.value
        pieces = 1 if signs else 3
        height = min(self.rows, HEIGHT)
        width = max(128, PANEL // (2 * pieces * height) // 128 * 128)
        width = min(width, ceil_div(self.samples, 128) * 128)
        panel = torch.empty(pieces, height, width, dtype=torch.bfloat16, device=self.x.device)
        tile = PANEL_SIGNS if signs else PANEL_NORMALS
        columns = ceil_div(self.features, tile["COLUMNS"])
        lines = self.samples if transpose else self.rows
        depth = height if transpose else width
        programs = ceil_div(min(lines, width if transpose else height), tile["ROWS"]) * columns
        splits = self.splits(programs, depth // (16 * tile["DEPTH"]))
        out = self.parts((lines, self.features), splits)
        for row in range(0, self.rows, height):
            for sample in range(0, self.samples, width):
                self.fill(panel, row, sample)
                more = row > 0 if transpose else sample > 0
                self.multiply(out, panel, row, sample, transpose, more, tile)
        if not self.public:
            panel.zero_()
        return self.total(out) if transpose else self.total(out)[None]

    def tiles(self, first: int, count: int, size: int) -> int:
        """How many tiles of a client's samples may meet samples first … first + count - 1."""
        last = min(first + count, self.samples) - 1
        return last // size - first // size + self.clients

    def fill(self, panel: torch.Tensor, row: int, sample: int) -> None:
        """Make the panel of G that begins at this row and this sample."""
        _, height, width = panel.shape
        size = 128 if self.public or self.kind == GAUSSIAN.value else SPAN.value
        rows = 2048 // size
        panel_kernel[(self.tiles(sample, width, size), ceil_div(height, rows))](
            *(panel, self.source, self.starts, row, sample, height, width),
            *(self.samples, self.clients, self.stream),
            **{"KIND": self.kind, "PUBLIC": self.public, "ROWS": rows, "SAMPLES": size},
            **EXACT,
        )

    def multiply(
        self,
        out: torch.Tensor,
        panel: torch.Tensor,
        row: int,
        sample: int,
        transpose: bool,
        more: bool,
        tile: dict[str, int],
    ) -> None:
        """Write, or add where there is ``more``, what a panel gives."""
        _, height, width = panel.shape
        if transpose:
            tiles = self.tiles(sample, width, tile["ROWS"])
        else:
            tiles = ceil_div(height, tile["ROWS"])
        panel_product_kernel[(tiles * ceil_div(self.features, tile["COLUMNS"]), len(out))](
            *(out, panel, self.x, self.starts, self.word, row, sample, height),
            *(width // 8 if self.even else width, self.rows, self.samples, self.width),
            *(self.clients, int(more)),
            **{"KIND": self.kind, "TRANSPOSED": transpose, "EVEN": self.even},
            **tile,
        )

    def buckets(self) -> torch.Tensor:
        """Every client's CountSketch: (clients, rows, features)."""
        count, device = self.clients * self.rows, self.x.device
        dtype = torch.int32 if count < 2**31 else torch.int64
        row_of = torch.empty(self.samples, dtype=dtype, device=device)
        sign_of = torch.empty(self.samples, dtype=torch.int8, device=device)
        place_kernel[(self.samples // SAMPLES + self.clients,)](
            *(row_of, sign_of, self.source, self.starts),
            *(self.samples, self.rows, self.clients, self.stream),
            **{"PUBLIC": self.public, "SAMPLES": SAMPLES},
        )
        sorted_rows, order = torch.sort(row_of, stable=True)
        begins = torch.searchsorted(
            sorted_rows, torch.arange(count + 1, dtype=dtype, device=device)
        )
        columns = min(128, max(16, triton.next_power_of_2(self.features)))
        programs = count * ceil_div(self.features, columns)
        splits = self.splits(programs, self.samples // (count * 64))
        out = self.parts((self.clients, self.rows, self.features), splits)
        bucket_kernel[(programs, splits)](
            *(out, self.x, sign_of, order, begins, self.word),
            *(count, self.width, math.sqrt(self.rows)),
            **{"EVEN": self.even, "SAMPLES": 1024 // columns, "COLUMNS": columns},
        )
        if not self.public:
            for secret in (row_of, sign_of, sorted_rows, order, begins):
                secret.zero_()
        return self.total(out)

    def lookup(self) -> torch.Tensor:
        """Every client's transposed CountSketch: (samples, features)."""
        out = torch.empty(self.samples, self.features, dtype=torch.float32, device=self.x.device)
        tiles = self.samples // LOOKUP["SAMPLES"] + self.clients
        lookup_kernel[(tiles * ceil_div(self.features, LOOKUP["COLUMNS"]),)](
            *(out, self.x, self.source, self.starts, self.samples, self.rows, self.width),
            *(self.clients, self.stream, math.sqrt(self.rows)),
            **{"PUBLIC": self.public, "EVEN": self.even},
            **LOOKUP,
        )
        return out


def add_noise(out: torch.Tensor, key: torch.Tensor, stream: int, deviation: float) -> None:
    """Add normals of this deviation to (clients, rows, features), in place."""
    clients, rows, features = out.shape
    columns = 16 if features <= 16 else 128
    lines = NOISE_TILE * 16 // columns
    noise_kernel[(ceil_div(clients * rows, lines) * ceil_div(features, columns),)](
        *(out, key, clients * rows, rows, features, signed32(stream), deviation),
        **{"ROWS": lines, "COLUMNS": columns},
        **EXACT,
    )


def sketch(
    x: torch.Tensor,
    seed: torch.Tensor | None,
    key: torch.Tensor | None,
    starts: torch.Tensor,
    samples: int,
    rows: int,
    kind: int,
    stream: int,
    noise_std: float,
    transpose: bool,
    word: torch.Tensor,
) -> torch.Tensor:
    """G_i x_i + noise of every client: (clients, rows, features); or G_iᵀ x_i: (samples, features).

    Args:
        x: float32 (samples, features); transposed (clients, rows, features); contiguous, and
            features at least 1.
        seed: int32 (2,), that of a public G, or None: G is secret.
        key: int32 (8,), of a secret G and of the noise, or None.
        starts: int64 (clients + 1,): where each client's samples begin, from 0 to their number.
        samples: of all clients.
        rows: of each client's G, at least 1.
        kind: 1 Rademacher, 2 Gaussian, 3 CountSketch.
        stream: that of client 0; client i has stream + i.
        noise_std: 0: no noise.
        transpose: which of the two.
        word: gets bit 2 when ``x`` is not finite.
    """
    call = Sketch(x, seed, key, starts, samples, rows, kind, stream, word)
    with torch.cuda.device_of(x):
        if transpose and x.numel():
            check_kernel[(ceil_div(x.numel(), CHECK),)](x, word, x.numel(), BLOCK=CHECK)
        if samples == 0 or call.clients == 0:
            shape = (samples,) if transpose else (call.clients, rows)
            out = x.new_zeros(*shape, call.features)
        elif kind == COUNTSKETCH.value:
            out = call.lookup() if transpose else call.buckets()
        elif transpose or (kind == GAUSSIAN.value and call.clients == 1 and call.features > FUSED):
            out = call.panels(transpose)
        else:
            out = call.fused()
        if noise_std > 0 and key is not None and out.numel():
            add_noise(out, key, stream, noise_std)
    return out

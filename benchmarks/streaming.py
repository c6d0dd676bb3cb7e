"""An update of 2·10^9 values through quantisation, masks and shares, in little memory.

Run it: ``python benchmarks/streaming.py [--values 2e9] [--chunk 4194304] [--masks 2]``. The
update is a sparse file that is mapped into memory, with islands of random values in it. What is
printed: the seconds of each stream, the most anonymous memory that the process had while it ran
(RssAnon of /proc/self/status, sampled; mapped files are not in it), and whether chunks that were
computed apart, across the borders of the stream's own, have the same bits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyfed
from pyfed.streaming import encode_stream, upload_stream

KEY, MINE = pyfed.Key(bytes(range(32))), pyfed.Key(bytes(32))
ISLANDS, ISLAND = 64, 1 << 16
LIMIT = 2_000_000_000
"""Bytes of anonymous memory that must suffice."""

Stream = Iterator[tuple[int, torch.Tensor]]


def anonymous_bytes() -> int:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


class Peak:
    """The most anonymous memory while it is entered, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.bytes, self._over = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, anonymous_bytes())


def sparse_update(path: Path, count: int) -> np.memmap[Any, np.dtype[np.float32]]:
    """A file of ``count`` float32 values, zero but for islands of random ones."""
    with path.open("wb") as file:
        file.truncate(4 * count)
    values = np.memmap(path, dtype=np.float32, mode="r+")
    rng = np.random.default_rng(20)
    for first in np.linspace(0, max(count - ISLAND, 0), ISLANDS, dtype=np.int64):
        island = values[first : first + ISLAND]
        island[:] = rng.standard_normal(len(island), dtype=np.float32)
    values.flush()
    return np.memmap(path, dtype=np.float32, mode="r")


def followed(
    stream: Stream, count: int, unit: int, apart: Callable[[int, int], torch.Tensor]
) -> dict[str, Any]:
    """Drain a stream, keep a few of its elements, and compare them with what is computed apart.

    Args:
        stream: what is measured.
        count: positions that it goes over.
        unit: positions of it in a chunk.
        apart: makes positions first … last - 1 by themselves.
    """
    rng = np.random.default_rng(7)
    # Around borders of chunks, where a stream would go wrong, and elsewhere.
    borders = rng.integers(0, max(count // unit, 1), 16) * unit
    places = sorted({0, *borders.tolist(), *rng.integers(0, count, 16).tolist()})
    spans = [(max(p - 500, 0), min(p + 500, count)) for p in places] + [(max(count - 9, 0), count)]
    kept: dict[tuple[int, int], list[torch.Tensor]] = {span: [] for span in spans}
    seconds, began = 0.0, time.perf_counter()
    with Peak() as peak:
        for first, part in stream:
            seconds += time.perf_counter() - began
            last = first + part.shape[-1]
            for (low, high), pieces in kept.items():
                if low < last and first < high:
                    inside = part[..., max(low - first, 0) : high - first]
                    pieces.append(inside.clone())
            began = time.perf_counter()
    same = all(torch.equal(torch.cat(pieces, -1), apart(*s)) for s, pieces in kept.items())
    return {"seconds": seconds, "peak_anonymous_bytes": peak.bytes, "same_bits": same}


def measured(count: int, chunk: int, masks: int, folder: Path) -> dict[str, Any]:
    """Both streams over one update."""
    values = sparse_update(folder / "update", count)
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=100)
    keys = [KEY.derive("pair", number) for number in range(masks)]
    signs = [1 if number % 2 else -1 for number in range(masks)]

    def floats(first: int, last: int) -> torch.Tensor:
        return torch.from_numpy(np.array(values[first:last]))

    def upload_apart(first: int, last: int) -> torch.Tensor:
        residues = fixed.encode(floats(first, last), MINE, start=first)
        return pyfed.ops.add_masks_(residues, keys, signs, fixed.field, start=first)

    code = pyfed.LagrangeCode(shares=4, blocks=2, privacy=1)

    def shares_apart(first: int, last: int) -> torch.Tensor:
        low = first * code.blocks
        residues = fixed.encode(floats(low, last * code.blocks), KEY, start=low)
        return code.encode(residues, KEY, start_column=first)

    upload = upload_stream(fixed, values, MINE, keys, signs, chunk=chunk)
    encode = encode_stream(code, values, KEY, fixed=fixed, chunk=chunk)
    columns = -(-count // code.blocks)
    return {
        "upload": followed(upload, count, chunk, upload_apart),
        "encode": followed(encode, columns, chunk // code.blocks, shares_apart),
    }


def main() -> None:
    """Measure, print, and fail where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--values", type=float, default=2e9, help="elements of the update")
    parser.add_argument("--chunk", type=int, default=1 << 22, help="elements of a chunk")
    parser.add_argument("--masks", type=int, default=2, help="keys of pairwise masks")
    parser.add_argument("--folder", type=Path, help="where the sparse file goes")
    given = parser.parse_args()
    count = int(given.values)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        results = measured(count, given.chunk, given.masks, Path(folder))
    for name, result in results.items():
        result["nanoseconds_per_value"] = 1e9 * result["seconds"] / count
        held = result["peak_anonymous_bytes"]
        good = result["same_bits"] and held < LIMIT
        print(
            f"{name}: {count:.3g} values in {result['seconds']:.1f} s, "
            f"{result['nanoseconds_per_value']:.2f} ns a value; peak RssAnon {held / 1e9:.2f} GB; "
            f"{'same bits' if result['same_bits'] else 'OTHER BITS'}{'' if good else ': FAILED'}"
        )
    print(json.dumps({"values": count, "chunk": given.chunk, "masks": given.masks, **results}))
    if not all(r["same_bits"] and r["peak_anonymous_bytes"] < LIMIT for r in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

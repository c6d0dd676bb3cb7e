"""Writes ``pyfed_sketch.json`` with the NumPy of ``sketch_oracles.py`` alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import sketch_oracles  # noqa: E402

ROWS, COLUMNS = (0, 1, 2**31 - 1), (0, 1, 2, 3, 33, 2**34 + 1, 2**36 - 1)
HEIGHT, WIDTH, STREAM = 2**31, 2**36, 2**32 - 2


def sketch_form() -> dict[str, object]:
    """The bits of some entries of every kind of matrix, and of noise, as unsigned integers."""
    key = bytes(range(32))
    seed = sketch_oracles.seed_of(key)
    matrices = []
    for kind in sketch_oracles.KINDS:
        for public in (True, False):
            source = seed if public else key
            height = 5 if kind == "countsketch" else HEIGHT  # so that not all entries are 0
            rows = (0, 1, 4) if kind == "countsketch" else ROWS
            place = np.array(rows), np.array(COLUMNS, dtype=np.uint64)
            entries = sketch_oracles.entries(source, kind, STREAM, *place, height)
            how = {"kind": kind, "public": public, "shape": [height, WIDTH], "rows": list(rows)}
            matrices.append({**how, "bits": entries.view(np.uint32).tolist()})
    return {
        "what": "entries of the matrices of sketches, and the noise, as the bits of float32",
        "source": "NumPy and Python integers, generate_sketch.py",
        **{"key_hex": key.hex(), "seed": seed, "stream": STREAM, "columns": list(COLUMNS)},
        "matrices": matrices,
        "noise": sketch_oracles.noise(key, STREAM, 3, 5).view(np.uint32).tolist(),
    }


if __name__ == "__main__":
    (HERE / "pyfed_sketch.json").write_text(json.dumps(sketch_form(), indent=1))

"""Finds residues whose first candidates are rejected, and writes them as known answers.

A candidate is rejected with probability 6·10^-5 in SOLINAS31 and 5·10^-10 in MERSENNE31, so random
tests never meet the rare cases. The search walks the streams with numba and confirms each find
with the Python integers of ``oracles.py``. Takes a few minutes: ``python search_rejections.py``.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numba
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from oracles import P_MERSENNE, P_SOLINAS, PADDING, RESIDUES, residue_attempts  # noqa: E402

LANES = 64  # blocks made side by side, so that the compiler vectorises over them


@numba.njit
def _step(x, a, b, d, bits):
    for lane in range(LANES):
        x[a, lane] += x[b, lane]
        mixed = x[d, lane] ^ x[a, lane]
        x[d, lane] = (mixed << np.uint32(bits)) | (mixed >> np.uint32(32 - bits))


@numba.njit
def _quarter(x, a, b, c, d):
    _step(x, a, b, d, 16)
    _step(x, c, d, b, 12)
    _step(x, a, b, d, 8)
    _step(x, c, d, b, 7)


@numba.njit
def _blocks(start, x):
    """LANES consecutive blocks from state ``start`` into x, (16, LANES)."""
    for i in range(16):
        for lane in range(LANES):
            x[i, lane] = start[i]
    for lane in range(LANES):
        x[12, lane] += np.uint32(lane)
    for _ in range(10):
        _quarter(x, 0, 4, 8, 12)
        _quarter(x, 1, 5, 9, 13)
        _quarter(x, 2, 6, 10, 14)
        _quarter(x, 3, 7, 11, 15)
        _quarter(x, 0, 5, 10, 15)
        _quarter(x, 1, 6, 11, 12)
        _quarter(x, 2, 7, 8, 13)
        _quarter(x, 3, 4, 9, 14)
    for i in range(16):
        for lane in range(LANES):
            x[i, lane] += start[i]
    for lane in range(LANES):
        x[12, lane] += np.uint32(lane)


@numba.njit
def search(state, modulus, depth, limit):
    """The first index whose first ``depth`` candidates are all rejected, or -1.

    ``state`` is the block's start with attempt 0; ``limit`` counts indices.
    """
    x = np.empty((16, LANES), np.uint32)
    again = np.empty((16, LANES), np.uint32)
    start = state.copy()
    retry = state.copy()
    for counter in range(0, limit // 16, LANES):
        start[12] = counter
        _blocks(start, x)
        for lane in range(LANES):
            for i in range(16):
                if (x[i, lane] & np.uint32(0x7FFFFFFF)) < modulus:
                    continue
                rejected = 1
                while rejected < depth:
                    retry[12] = counter + lane
                    retry[15] = state[15] + rejected
                    _blocks(retry, again)
                    if (again[i, 0] & np.uint32(0x7FFFFFFF)) < modulus:
                        break
                    rejected += 1
                if rejected == depth:
                    return (counter + lane) * 16 + i
    return -1


def main() -> None:
    """Search and write ``residue_rejections.json``."""
    key, stream = bytes(range(32)), 7
    constants = struct.unpack("<4I", b"expand 32-byte k")
    found = []
    for name, p, field_id, depth, row, purpose in (
        ("SOLINAS31", P_SOLINAS, 1, 1, 0, RESIDUES),
        ("SOLINAS31", P_SOLINAS, 1, 2, 0, RESIDUES),
        ("MERSENNE31", P_MERSENNE, 2, 1, 0, RESIDUES),
        ("SOLINAS31", P_SOLINAS, 1, 1, 1, PADDING),
        ("SOLINAS31", P_SOLINAS, 1, 2, 1, PADDING),
        ("MERSENNE31", P_MERSENNE, 2, 1, 1, PADDING),
    ):
        nonce = (row, stream, purpose << 24 | field_id << 16)
        words = (*constants, *struct.unpack("<8I", key), 0, *nonce)
        index = int(search(np.array(words, np.uint32), np.uint32(p), depth, 2**35))
        value, attempts = residue_attempts(key, index, p, row=row, stream=stream, purpose=purpose)
        if attempts != depth:
            raise ArithmeticError(f"{name}: index {index} takes {attempts} retries, not {depth}")
        where = {"field": name, "purpose": purpose, "row": row, "index": index}
        found.append({**where, "retries": depth, "value": value})
        print(found[-1], flush=True)
    out = {
        "what": "Residues (purpose 1) and padding (purpose 3) whose first candidates are rejected",
        "source": "search_rejections.py, confirmed with Python integers",
        "key_hex": key.hex(),
        "stream": stream,
        "found": found,
    }
    (HERE / "residue_rejections.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()

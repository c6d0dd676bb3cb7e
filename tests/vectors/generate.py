"""Writes ``pyfed_fixed_form.json`` with the Python integers of ``oracles.py`` alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from oracles import P_MERSENNE, P_SOLINAS, encode, float32, quantize, residue, word  # noqa: E402

FIELDS = {"SOLINAS31": P_SOLINAS, "MERSENNE31": P_MERSENNE}
INDICES = (0, 1, 15, 16, 1000, 2**36 - 1)
RESIDUE_INDICES = (0, 1, 17, 12345, 2**33 + 5)
VALUES = (
    *(0.0, 0.5, -0.5, 1.0, -1.0, 0.1, -0.1, 3.999, -3.999, 5.0, -7.25, 1e-30, -1e-30),
    *(1.40129846e-45, 2.0**-13 * 1.5),
)
SHARINGS = (  # shares, blocks, privacy, length, stream, start_column
    *((1, 1, 0, 3, 0, 0), (2, 1, 1, 3, 0, 0), (6, 3, 2, 10, 0, 0)),
    *((6, 3, 2, 10, 5, 1000), (8, 4, 3, 9, 0, 0), (13, 5, 4, 11, 1, 0)),
)


def fixed_form() -> dict[str, object]:
    """The known answers of the library's own fixed form."""
    key = bytes(range(32))
    out: dict[str, object] = {
        "what": "ChaCha20 addressing, residues, rounding and Lagrange sharing in the library's own"
        " fixed form",
        "source": "Python integers, generate.py",
        "key_hex": key.hex(),
        "words": {
            **{"row": 0, "stream": 0, "purpose": 0, "indices": list(INDICES)},
            "values": [word(key, i) for i in INDICES],
        },
    }
    residues, quantized, sharings = [], [], []
    for field, p in FIELDS.items():
        found = [residue(key, i, p, stream=7) for i in RESIDUE_INDICES]
        where = {"field": field, "stream": 7, "indices": list(RESIDUE_INDICES)}
        residues.append({**where, "values": found})
        values = [float32(v) for v in VALUES]
        how = {"field": field, "clip": 4.0, "exponent": 13, "values": values}
        quantized.append({**how, "residues": quantize(values, 2.0**13, 4.0, p, key)})
        for shares, blocks, privacy, length, stream, start in SHARINGS:
            data = [(i * 987654321 + (p - 1 if i % 3 == 0 else i)) % p for i in range(length)]
            shape = {"field": field, "shares": shares, "blocks": blocks, "privacy": privacy}
            where = {"stream": stream, "start_column": start, "values": data}
            encoded = encode(data, key, p, shares, blocks, privacy, stream, start)
            sharings.append({**shape, **where, "encoded": encoded})
    return {**out, "residues": residues, "quantize": quantized, "lagrange": sharings}


if __name__ == "__main__":
    (HERE / "pyfed_fixed_form.json").write_text(json.dumps(fixed_form(), indent=1))

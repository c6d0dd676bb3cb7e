"""Keys and the compiler: no byte of a key in its files, and no compilation per key."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
import torch._dynamo.testing

import pyfed
from pyfed import SOLINAS31, Key

# In a process of its own: cache folders are chosen once, when the compiler is imported.
SCRIPT = """
import sys
import torch
import pyfed
from pyfed import SOLINAS31, Key

def step(values, data, matrix, key):
    words = pyfed.ops.random_words(key, 16)
    residues = pyfed.ops.random_residues(key, 16, SOLINAS31)
    rounded = pyfed.ops.quantize(values * 2, 1024.0, 4.0, SOLINAS31, key)
    shares = pyfed.ops.lagrange_encode(data, matrix, key, SOLINAS31, 2)
    return words + 1, residues, rounded, shares

key = Key(bytes.fromhex(sys.argv[1]))
ints = torch.arange(6, dtype=torch.int32)
arguments = torch.randn(16), ints, torch.ones(3, 3, dtype=torch.int32), key
compiled = torch.compile(step, fullgraph=True, backend="inductor")
for got, wanted in zip(compiled(*arguments), step(*arguments), strict=True):
    assert torch.equal(got, wanted)
"""


def spellings(secret: bytes) -> list[bytes]:
    """The key as raw bytes and hex, and each word of it in decimal and hex: regular expressions.

    A word must stand alone: the digests in names of files would have one by chance.
    """
    unsigned, signed = struct.unpack("<8I", secret), struct.unpack("<8i", secret)
    words = [str(w) for w in (*unsigned, *signed)] + [f"{w:08x}" for w in unsigned]
    swapped = struct.pack(">8I", *unsigned)
    halves = [secret[:8], secret[8:16], secret[16:24], secret[24:], swapped[:8]]
    long = [re.escape(part.lower()) for half in halves for part in (half, half.hex().encode())]
    return long + [rf"(?<![0-9a-f]){word}(?![0-9a-f])".encode() for word in words]


def test_a_key_is_found_as_it_may_be_spelt() -> None:
    secret = bytes(range(0x81, 0xA1))
    first = int.from_bytes(secret[:4], "little")
    for text in (secret[8:16], secret.hex(), f"[{first},", f"0x{first:08X}u", first - 2**32):
        raw = text if isinstance(text, bytes) else str(text).encode()
        assert any(re.search(spelling, raw.lower()) for spelling in spellings(secret)), text
    digest = f"ab{first:08x}cd".encode()
    assert not any(re.search(spelling, digest) for spelling in spellings(secret))


def test_the_compiler_writes_no_part_of_a_key_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = bytes.fromhex("c3a1f09be47d5582d6e8b90712fa6c3497bd41ee8a2f60d5f1c2b3a495867760")
    cache = tmp_path / "cache"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    monkeypatch.setenv("TORCH_COMPILE_DEBUG_DIR", str(tmp_path))
    done = run(
        [sys.executable, "-c", SCRIPT, secret.hex()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert any(cache in f.parents for f in files), "the compiler wrote no cache to look through"
    contents = {f: f.read_bytes().lower() for f in files}
    assert any(b"random_words" in text for text in contents.values())
    for spelling in spellings(secret):
        found = [str(f) for f, text in contents.items() if re.search(spelling, text)]
        assert not found, f"{spelling!r} is in {found}"


def test_a_second_key_does_not_compile_again() -> None:
    torch._dynamo.reset()

    def step(values: torch.Tensor, key: Key) -> torch.Tensor:
        rounded = pyfed.ops.quantize(values, 1024.0, 4.0, SOLINAS31, key)
        return rounded + pyfed.ops.random_residues(key, values.numel(), SOLINAS31)

    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter)
    values = torch.linspace(-3, 3, 40)
    for number in range(4):
        key = Key(bytes([number] * 32))
        assert torch.equal(compiled(values, key), step(values, key))
    assert counter.frame_count == 1

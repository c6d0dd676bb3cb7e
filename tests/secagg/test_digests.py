"""Checksums and fingerprints against GHASH in Python integers, and a published answer."""

from __future__ import annotations

import itertools
import random

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.hmac import HMAC

from pyfed import Key
from pyfed.secagg import digests
from pyfed.secagg.digests import checksum, fingerprint, gmac

KEY = bytes(range(32))


def times(x: int, y: int) -> int:
    """The product in GF(2^128) of NIST SP 800-38D, algorithm 1: bit 0 is the highest."""
    z = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return z


def other_gmac(key: bytes, data: bytes) -> bytes:
    """GMAC under the nonce 0, by AES on single blocks."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update
    h = int.from_bytes(block(bytes(16)), "big")
    blocks = [data[at : at + 16].ljust(16, b"\0") for at in range(0, len(data), 16)]
    blocks.append((8 * len(data)).to_bytes(8, "big") + bytes(8))
    y = 0
    for piece in blocks:
        y = times(y ^ int.from_bytes(piece, "big"), h)
    mask = int.from_bytes(block((1).to_bytes(16, "big")), "big")
    return (y ^ mask).to_bytes(16, "big")


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 255, 4096])
def test_gmac_is_that_of_python_integers(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert gmac(KEY, data) == gmac(KEY, memoryview(data)) == other_gmac(KEY, data)


def test_gmac_gives_the_answer_of_the_gcm_specification() -> None:
    # McGrew and Viega, test case 13: AES-256, all zero, nothing to encrypt.
    assert gmac(bytes(32), b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"


@pytest.mark.parametrize("piece", [1, 16, 31, 100])
def test_data_in_pieces_has_one_digest(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(1).randbytes(100)
    monkeypatch.setattr(digests, "_PIECE", piece)
    assert gmac(KEY, data) == other_gmac(KEY, data)


def test_a_checksum_is_under_the_public_key() -> None:
    public = Hash(SHA256())
    public.update(b"pyfed/v1/checksum")
    assert checksum(b"a message") == other_gmac(public.finalize(), b"a message")


def test_every_flipped_bit_and_every_missing_byte_changes_the_checksum() -> None:
    data = bytearray(random.Random(2).randbytes(50))
    seen = {checksum(data), *(checksum(data[:size]) for size in range(50))}
    for bit in range(400):
        data[bit // 8] ^= 1 << bit % 8
        seen.add(checksum(data))
        data[bit // 8] ^= 1 << bit % 8
    assert len(seen) == 1 + 50 + 400


def test_a_fingerprint_is_an_hmac_over_a_tag_under_a_derived_key() -> None:
    key = Key(KEY)
    mac = HMAC(KEY, SHA256())
    mac.update(b"what it belongs to")
    mac.update(other_gmac(key.derive("fingerprint").reveal(), b"data"))
    assert fingerprint(key, b"data", b"what it belongs to") == mac.finalize()


def test_fingerprints_differ_with_key_data_and_what_they_are_bound_to() -> None:
    keys, data, bounds = (KEY, bytes(32)), (b"", b"\0", b"\0\0"), (b"", b"x")
    given = list(itertools.product(keys, data, bounds))
    assert len({fingerprint(Key(k), d, b) for k, d, b in given}) == len(given)


def test_a_digest_of_parts_is_that_of_the_whole() -> None:
    assert checksum(b"one", b"", b"message") == checksum(b"onemessage") != checksum(b"one")

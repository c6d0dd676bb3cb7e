"""Key: derivation, and no way by which its bytes get out unasked."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
import struct

import pytest
import torch

from pyfed import Key
from pyfed.errors import ArgumentError, DtypeError

SECRET = bytes(range(32))


def hkdf_of_rfc_5869(secret: bytes, label: bytes, numbers: tuple[int, ...]) -> bytes:
    """One block of HKDF-SHA256, written out: extract with the salt, then T(1)."""
    extracted = hmac.new(b"pyfed/v1", secret, hashlib.sha256).digest()
    info = struct.pack("<I", len(label)) + label + b"".join(struct.pack("<Q", n) for n in numbers)
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("label", "numbers"), [("", ()), ("mask", (3, 7)), ("Schlüssel", (0, 2**64 - 1)), ("a", (1,))]
)
def test_derived_keys_are_hkdf_of_label_and_numbers(label: str, numbers: tuple[int, ...]) -> None:
    wanted = hkdf_of_rfc_5869(SECRET, label.encode(), numbers)
    assert Key(SECRET).derive(label, *numbers).reveal() == wanted


def test_different_labels_and_numbers_give_different_keys() -> None:
    """Also where their plain concatenations are equal."""
    zeros = "\x00" * 8
    made = [("a",), ("b",), ("a", 0), ("a", 1), ("a", 0, 0), ("a" + zeros,), ("",), ("", 0)]
    assert len({Key(SECRET).derive(*arguments).reveal() for arguments in made}) == len(made)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((b"a",), DtypeError, "label is bytes; it must be a str"),
        (("a", -1), ArgumentError, r"a number is -1; it must be in \[0, 2\^64\)"),
        (("a", 2**64), ArgumentError, "a number is 18446744073709551616"),
        (("a", 1.0), DtypeError, "a number is float"),
        (("a", True), DtypeError, "a number is bool"),
    ],
)
def test_bad_labels_and_numbers_are_named(
    arguments: tuple[object, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Key(SECRET).derive(*arguments)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_key_keeps_a_copy_of_its_bytes(kind: type) -> None:
    source = bytearray(SECRET)
    key = Key(kind(source))
    source[0] ^= 1
    assert key.reveal() == SECRET


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_other_lengths_are_refused(secret: bytes) -> None:
    with pytest.raises(ArgumentError, match=f"secret has {len(secret)} bytes; it must have 32"):
        Key(secret)


def test_other_types_are_refused() -> None:
    with pytest.raises(DtypeError, match="secret is str"):
        Key("a" * 32)


def test_generated_keys_differ() -> None:
    assert len({Key.generate().reveal() for _ in range(50)}) == 50


def test_words_are_little_endian_on_the_cpu() -> None:
    words = Key(SECRET).words()
    assert words.dtype == torch.int32
    assert words.tolist() == list(struct.unpack("<8i", SECRET))
    negative = Key(b"\xff" * 32).words()
    assert negative.tolist() == [-1] * 8


def test_no_text_of_a_key_shows_its_bytes() -> None:
    key = Key(b"\xab" * 32)
    key.words()
    for text in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert text.strip("[]") == "Key(<256 secret bits>)"
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_cannot_be_pickled_or_copied(take: object) -> None:
    with pytest.raises(DtypeError, match="cannot be pickled or copied"):
        take(Key(SECRET))


def test_keys_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Key(SECRET))


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    genuine = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((bytes(a), bytes(b)))
        return genuine(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    other = bytes([*SECRET[:31], 0])
    assert Key(SECRET) == Key(SECRET)
    assert Key(SECRET) != Key(other)
    assert compared == [(SECRET, SECRET), (SECRET, other)]
    assert Key(SECRET) != SECRET


def test_wiping_overwrites_the_bytes_and_the_tensor() -> None:
    key = Key(SECRET)
    words, held = key.words(), key._secret
    key.wipe()
    assert held == bytes(32) == key.reveal()
    assert not words.any() and not key.words().any()


@pytest.mark.gpu
def test_wiping_overwrites_the_copy_on_a_gpu() -> None:
    key = Key(SECRET)
    words = key.words("cuda")
    assert words.tolist() == key.words().tolist()
    key.wipe()
    assert not words.any()

"""Secret keys: 256 bits that derive other keys and feed the ChaCha20 generator."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from pyfed.errors import ArgumentError, DtypeError

if TYPE_CHECKING:
    import torch

KEY_BYTES = 32
SALT = b"pyfed/v1"


def length_prefixed(data: bytes) -> bytes:
    """The 32-bit little-endian length of ``data``, then ``data``."""
    return struct.pack("<I", len(data)) + data


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF with SHA-256 (RFC 5869): extract, then expand to ``length`` bytes (at most 8160)."""
    if not 0 <= length <= 255 * 32:
        raise ArgumentError(f"hkdf_sha256: length is {length}; it must be from 0 to 8160")
    extracted = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
    output, block, counter = b"", b"", 0
    while len(output) < length:
        counter += 1
        block = hmac.digest(extracted, block + info + bytes([counter]), hashlib.sha256)
        output += block
    return output[:length]


class Key:
    """A secret key of 256 bits.

    It shows no bytes when printed, cannot be pickled or hashed, and compares in constant time.

    Args:
        secret: exactly 32 bytes. Production code calls :meth:`generate` instead.

    Raises:
        DtypeError: ``secret`` is not bytes-like.
        ArgumentError: ``secret`` is not 32 bytes long.

    Example:
        >>> from pyfed import Key
        >>> key = Key(bytes(range(32)))
        >>> key
        Key(<256 secret bits>)
        >>> key.derive("mask", 3) == Key(bytes(range(32))).derive("mask", 3)
        True
        >>> key.derive("mask", 3) == key.derive("mask", 4)
        False
    """

    __slots__ = ("__weakref__", "_secret", "_tensors")

    def __init__(self, secret: bytes | bytearray | memoryview) -> None:
        if not isinstance(secret, bytes | bytearray | memoryview):
            raise DtypeError(f"Key: secret is {type(secret).__name__}; it must be 32 bytes")
        if len(secret) != KEY_BYTES:
            raise ArgumentError(f"Key: secret has {len(secret)} bytes; it must have {KEY_BYTES}")
        if sys.byteorder != "little":
            raise ArgumentError("Key: this machine is big-endian, which is not supported")
        self._secret = bytearray(secret)
        self._tensors: dict[str, torch.Tensor] = {}
        if "torch" in sys.modules:  # now, since torch.compile cannot trace a view of bytes
            self._share()

    @classmethod
    def generate(cls) -> Key:
        """A fresh key from the operating system's generator."""
        return cls(os.urandom(KEY_BYTES))

    def derive(self, label: str, *numbers: int) -> Key:
        """The key HKDF-SHA256(this key, salt ``pyfed/v1``, label and numbers), RFC 5869.

        Args:
            label: what the derived key is for.
            numbers: non-negative integers below 2^64, such as a round and a client.

        Raises:
            ArgumentError: a number is out of range.
        """
        if not isinstance(label, str):
            raise DtypeError(f"Key.derive: label is {type(label).__name__}; it must be a str")
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool):
                kind = type(number).__name__
                raise DtypeError(f"Key.derive: a number is {kind}; it must be an int")
            if not 0 <= number < 2**64:
                raise ArgumentError(f"Key.derive: a number is {number}; it must be in [0, 2^64)")
        info = length_prefixed(label.encode()) + struct.pack(f"<{len(numbers)}Q", *numbers)
        return Key(hkdf_sha256(self.reveal(), SALT, info))

    def reveal(self) -> bytes:
        """The 32 secret bytes, for a library that needs them; the copy cannot be wiped."""
        return bytes(self._secret)

    def words(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The key as 8 little-endian 32-bit words: int32 tensor of shape (8,) on ``device``.

        The tensor is kept, so that later calls copy nothing, until :meth:`wipe`.
        """
        if not self._tensors:
            self._share()
        name = str(device)
        if name not in self._tensors:
            self._tensors[name] = self._tensors["cpu"].to(device)
        return self._tensors[name]

    def _share(self) -> None:
        """Make the CPU tensor, which is a view of the bytes."""
        import torch

        with torch.inference_mode(False):  # or it could not be wiped outside of that mode
            self._tensors["cpu"] = torch.frombuffer(self._secret, dtype=torch.int32)

    def wipe(self) -> None:
        """Overwrite the bytes held here and on every device; the key is all zero afterwards."""
        self._secret[:] = bytes(KEY_BYTES)
        for tensor in self._tensors.values():
            tensor.zero_()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return hmac.compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Key(<256 secret bits>)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise DtypeError("a Key cannot be pickled or copied; hand it on by name")

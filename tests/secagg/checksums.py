"""The checksum behind a message, by another way than the messages' own."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHECKSUM = 16
_PUBLIC = AESGCM(hashlib.sha256(b"pyfed/v1/checksum").digest())


def checked(content: bytes) -> bytes:
    """Content with the checksum that a message needs."""
    return content + _PUBLIC.encrypt(bytes(12), b"", content)

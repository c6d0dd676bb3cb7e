"""Digests of long byte strings by GMAC, at many times the speed of SHA-256; no torch."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from pyfed.keys import Key

CHECKSUM = 16
"""Bytes of a checksum."""
_PUBLIC = hashlib.sha256(b"pyfed/v1/checksum").digest()
_PIECE = 2**30
"""Bytes that are handed over at once."""


def gmac(key: bytes, *parts: bytes | memoryview) -> bytes:
    """AES-256-GMAC (NIST SP 800-38D) of parts behind one another, under the nonce 0: 16 bytes.

    The nonce is always the same, so a secret key's tags must not be shown: two of them give the
    hash key away.
    """
    mac = Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor()
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), _PIECE):
            mac.authenticate_additional_data(view[at : at + _PIECE])
    mac.finalize()
    return mac.tag


def checksum(*parts: bytes | memoryview) -> bytes:
    """16 bytes that find damage to parts behind one another, by a key that everybody knows.

    Damage that does not know of it goes unnoticed with a chance of 2^-128. It is no protection
    against forgery.
    """
    return gmac(_PUBLIC, *parts)


def fingerprint(key: Key, data: bytes | memoryview, bound: bytes = b"") -> bytes:
    """32 bytes that stand for ``data`` where the key is secret: HMAC-SHA256(key, bound ‖ tag).

    The tag is GMAC under a derived key, and never shown. Of two different strings of up to n bytes
    it is the same with a chance of at most (n/16 + 2) / 2^128, the key being random, so that what
    comes out is a pseudorandom function of (bound, data).

    Args:
        key: known to who compares fingerprints, and to nobody who chooses what is compared.
        data: any number of bytes.
        bound: what the data belongs to.
    """
    inner = key.derive("fingerprint")
    try:
        tag = gmac(inner.reveal(), data)
    finally:
        inner.wipe()
    return hmac.digest(key.reveal(), bound + tag, hashlib.sha256)

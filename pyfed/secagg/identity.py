"""Long-lived Ed25519 identities, for sessions whose server may do anything."""

from __future__ import annotations

import dataclasses
from typing import NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from pyfed.errors import DtypeError
from pyfed.keys import Key
from pyfed.secagg.wire import Message

M = TypeVar("M", bound=Message)


class Identity:
    """A client's private key for signatures, which lives longer than any session.

    The other clients pin its public half: they know it from elsewhere than the server.

    Args:
        key: its 32 bytes become the private key (RFC 8032).

    Raises:
        DtypeError: ``key`` is no Key.

    Example:
        >>> import pyfed
        >>> from pyfed.secagg import Identity
        >>> identity = Identity(pyfed.Key(bytes(range(32))))
        >>> identity.public.hex()
        '03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8'
    """

    def __init__(self, key: Key) -> None:
        if not isinstance(key, Key):
            raise DtypeError(f"Identity: key is {type(key).__name__}; it must be a Key")
        self._private = Ed25519PrivateKey.from_private_bytes(key.reveal())
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the operating system's generator."""
        key = Key.generate()
        try:
            return cls(key)
        finally:
            key.wipe()

    def signed(self, message: M) -> M:
        """The message with a signature."""
        signature = self._private.sign(message.signed_part())
        return dataclasses.replace(message, signature=signature)

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise DtypeError("an Identity cannot be pickled or copied; make it from its key again")


def is_signed(message: Message, public: bytes) -> bool:
    """Whether a message carries the signature of the holder of a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(message.signature, message.signed_part())
    except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no point
        return False
    return True

"""End-to-end boxes between clients: X25519, HKDF-SHA256 and AES-256-GCM; no torch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pyfed.errors import ProtocolError
from pyfed.keys import Key, hkdf_sha256, length_prefixed
from pyfed.secagg.digests import fingerprint
from pyfed.secagg.session import SEALING, SEGMENT

NONCE = 12


class ChannelKey:
    """One party's X25519 key pair.

    Args:
        key: its 32 bytes become the private key, clamped as RFC 7748 says.
    """

    def __init__(self, key: Key) -> None:
        self._private = X25519PrivateKey.from_private_bytes(key.reveal())
        self.public = self._private.public_key().public_bytes_raw()

    def reveal(self) -> bytes:
        """The 32 secret bytes, to be saved; the copy cannot be wiped."""
        return self._private.private_bytes_raw()

    def agree(self, peer: bytes) -> Key:
        """The secret shared with the holder of a public key of 32 bytes.

        Raises:
            ProtocolError: the public key has a small order, which would make the secret zero.
        """
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:
            raise ProtocolError("channel: the peer's key gives an all-zero secret") from None
        return Key(secret)


def expect_public(peer: bytes) -> None:
    """Raise ProtocolError when no one can agree on a secret with this public key.

    A server checks keys with it, so that one bad key does not stop every client.
    """
    probe = Key.generate()
    own = ChannelKey(probe)
    probe.wipe()
    own.agree(peer).wipe()


def channel_key(
    secret: Key, session: bytes, use: str, round_: int, sender: int, recipient: int
) -> Key:
    """The key of one direction and use: HKDF(shared secret, salt = session, info = the rest)."""
    numbers = struct.pack("<QII", round_, sender, recipient)
    info = length_prefixed(b"channel") + length_prefixed(use.encode()) + numbers
    return Key(hkdf_sha256(secret.reveal(), session, info))


@dataclass(frozen=True)
class Label:
    """What a box is bound to besides its key.

    Args:
        session: the session hash.
        kind: type of the message that carries the box.
        round: number of the round.
        sender: who seals it.
        recipient: who opens it.
    """

    session: bytes
    kind: str
    round: int
    sender: int
    recipient: int

    def segment(self, number: int, count: int) -> bytes:
        """The associated data of one of ``count`` segments."""
        numbers = struct.pack("<QIIII", self.round, self.sender, self.recipient, number, count)
        return self.session + length_prefixed(self.kind.encode()) + numbers


def seal_segment(key: Key, nonce: bytes, data: bytes | memoryview, associated: bytes) -> bytes:
    """AES-256-GCM: nonce ‖ ciphertext ‖ tag. A nonce serves one segment in a key's life."""
    return nonce + AESGCM(key.reveal()).encrypt(nonce, data, associated)


def open_segment(key: Key, sealed: bytes | memoryview, associated: bytes) -> bytes:
    """The plaintext of :func:`seal_segment`; raises InvalidTag when it is not genuine."""
    nonce, ciphertext = sealed[:NONCE], sealed[NONCE:]
    return AESGCM(key.reveal()).decrypt(nonce, ciphertext, associated)


def synthetic_nonce(nonces: Key, data: bytes | memoryview, associated: bytes) -> bytes:
    """96 bits of :func:`fingerprint` of the data, bound to the associated data.

    Two different plaintexts under one key have different nonces but for a chance of 2^-95, even
    when a client that lost its memory seals again; the same plaintext gives the same bytes.
    """
    return fingerprint(nonces, data, associated)[:NONCE]


def seal(key: Key, nonces: Key, data: bytes | memoryview, label: Label) -> tuple[bytes, ...]:
    """Seal bytes of any number in segments of at most 2^28.

    Args:
        key: of this direction and use; for one box.
        nonces: a secret of the sender's, from which nonces are made; see
            :func:`synthetic_nonce`.
        data: the plaintext.
        label: what the box is bound to.
    """
    pieces = [data[at : at + SEGMENT] for at in range(0, max(len(data), 1), SEGMENT)]
    sealed = []
    for number, piece in enumerate(pieces):
        associated = label.segment(number, len(pieces))
        nonce = synthetic_nonce(nonces, piece, associated)
        sealed.append(seal_segment(key, nonce, piece, associated))
    return tuple(sealed)


def open_into(key: Key, box: tuple[bytes, ...], label: Label, out: memoryview) -> bool:
    """Open a box into memory of the caller's, so that the plaintext is in one place only.

    Args:
        key: the key of this direction and use.
        box: the sealed segments.
        label: what the sender bound them to.
        out: bytes, writable, exactly as long as the plaintext.

    Returns:
        Whether every segment was genuine and the lengths fit; when not, ``out`` is all zero.
    """
    cipher, at = AESGCM(key.reveal()), 0
    good = len(box) > 0 and sum(len(sealed) - SEALING for sealed in box) == len(out)
    for number, sealed in enumerate(box):
        size = len(sealed) - SEALING
        if not good or size < 0:
            good = False
            break
        part, associated = out[at : at + size], label.segment(number, len(box))
        try:
            cipher.decrypt_into(sealed[:NONCE], memoryview(sealed)[NONCE:], associated, part)
        except InvalidTag:
            good = False
            break
        at += size
    if not good:
        out[:] = bytes(len(out))
    return good


class Peers:
    """The secrets shared with every other member of a roster, in one round.

    Args:
        own: this party's key pair.
        number: this party's number.
        publics: number → public key of every member; an entry for ``number`` is skipped.
        session: the session hash.
        round_: number of the round.
        nonces: the round's secret for nonces, copied.

    Raises:
        ProtocolError: a public key has a small order.
    """

    def __init__(
        self,
        own: ChannelKey,
        number: int,
        publics: Mapping[int, bytes],
        session: bytes,
        round_: int,
        nonces: Key,
    ) -> None:
        self._number = number
        self._nonces = Key(nonces.reveal())
        self._session = session
        self._round = round_
        self._secrets: dict[int, Key] = {}
        try:
            for peer, public in publics.items():
                if peer != number:
                    self._secrets[peer] = own.agree(public)
        except ProtocolError:
            self.wipe()
            raise

    @property
    def numbers(self) -> tuple[int, ...]:
        """The other members."""
        return tuple(self._secrets)

    def seal(self, peer: int, use: str, kind: str, data: memoryview) -> tuple[bytes, ...]:
        """A box for ``peer``, to be carried in a message of type ``kind``."""
        key, label = self._bound(use, kind, self._number, peer)
        try:
            return seal(key, self._nonces, data, label)
        finally:
            key.wipe()

    def open_into(
        self, peer: int, use: str, kind: str, box: tuple[bytes, ...], out: memoryview
    ) -> bool:
        """Open a box from ``peer``; False, and ``out`` all zero, when it is not genuine."""
        key, label = self._bound(use, kind, peer, self._number)
        try:
            return open_into(key, box, label, out)
        finally:
            key.wipe()

    def _bound(self, use: str, kind: str, sender: int, recipient: int) -> tuple[Key, Label]:
        peer = recipient if sender == self._number else sender
        secret = self._secrets[peer]
        key = channel_key(secret, self._session, use, self._round, sender, recipient)
        return key, Label(self._session, kind, self._round, sender, recipient)

    def wipe(self) -> None:
        """Overwrite all secrets; no box can be sealed or opened afterwards."""
        self._nonces.wipe()
        for secret in self._secrets.values():
            secret.wipe()
        self._secrets = {}

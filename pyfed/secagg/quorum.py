"""What clients check under a malicious server: pinned keys, and a quorum on the survivors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.common import Commit, Hello, Quorum, Roster
from pyfed.secagg.identity import Identity, is_signed
from pyfed.secagg.protocol import Protocol


def unpinned_member(protocol: Protocol, message: Roster, envelope: Mapping[str, Any]) -> int | None:
    """The first client whose keys in a roster its pinned identity has not signed, or None.

    Args:
        protocol: has the pinned identities.
        message: the roster.
        envelope: the fields of a client's message before there is a session; the sender is put in.
    """
    for member, signature in zip(message.roster, message.signatures, strict=True):
        client, keys, signing = member
        header = {**envelope, "sender": client, "signature": signature}
        hello = Hello(**header, channel_key=keys, signing_key=signing)
        pinned = protocol.identities[client]
        if not is_signed(hello, pinned):  # nobody else can have signed another signing key
            return client
    return None


def false_commit(
    protocol: Protocol, message: Quorum, digest: bytes, envelope: Mapping[str, Any]
) -> int | None:
    """The first client that has not signed a Commit to a set of survivors, or None.

    Args:
        protocol: has the pinned identities.
        message: the quorum.
        digest: of the survivors.
        envelope: the fields of a client's message in this session; the sender is put in.
    """
    for client, signature in message.signatures:
        header = {**envelope, "sender": client, "signature": signature}
        commit = Commit(**header, digest=digest)
        if not is_signed(commit, protocol.identities[client]):
            return client
    return None


def expect_identity(protocol: Protocol, index: int, identity: object) -> None:
    """Raise unless a client has the identity that is pinned for it; or none, where none is used."""
    name = protocol.name
    if not protocol.parameters.signed:
        if identity is not None:
            raise ArgumentError(
                f"{name}: identity is given; it is used with server='malicious' only"
            )
        return
    if not isinstance(identity, Identity):
        kind = type(identity).__name__
        raise DtypeError(f"{name}: identity is {kind}; server='malicious' needs an Identity")
    if identity.public != protocol.identities[index]:
        raise ArgumentError(f"{name}: identity is not the one pinned for client {index}")

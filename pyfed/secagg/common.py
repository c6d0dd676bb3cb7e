"""The messages that every protocol has: keys, the roster, the quorum, and the result."""

from __future__ import annotations

from dataclasses import dataclass

from pyfed.secagg.session import SIGNATURE, WORD, Member, Parameters
from pyfed.secagg.wire import HEADER, Message

ALL = ("LightSecAgg", "LightSecAggChecked", "SwiftAgg", "SecAggPlus", "SecEA", "GroupKey")
SUMS = ("LightSecAgg", "LightSecAggChecked", "SwiftAgg", "SecAggPlus")
_ENTRY = 24  # bytes: more than the frame of a roster entry takes beside its keys
NUMBER = 5
"""Bytes: the most that a client number takes."""
_PRIME = 2**255 - 19  # coordinates of X25519's curve are below


def key_parts(keys: bytes) -> list[bytes]:
    """The X25519 keys that stand behind one another in a client's public keys."""
    return [keys[at : at + 32] for at in range(0, len(keys), 32)]


def _is_coordinate(part: bytes) -> bool:
    """Whether a key has its one form, so that two clients with one key are noticed."""
    return int.from_bytes(part, "little") < _PRIME


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """A client's public keys: X25519, which some protocols follow by more; and Ed25519 or none."""

    protocols = ALL
    from_server = False
    channel_key: bytes
    signing_key: bytes = b""

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("channel_key", self.channel_key, parameters.key_bytes)
        self._expect_bytes("signing_key", self.signing_key, parameters.signing_bytes)
        canonical = all(map(_is_coordinate, key_parts(self.channel_key)))
        self._expect(canonical, "channel_key", "canonical coordinates")


@dataclass(frozen=True, kw_only=True)
class Roster(Message):
    """Everybody's public keys, with what the session hash is made of.

    Under a malicious server the signature of each member's Hello goes with them, in order.
    """

    protocols = ALL
    from_server = True
    parameters: bytes
    roster: tuple[Member, ...]
    nonce: bytes
    signatures: tuple[bytes, ...] = ()

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        keys = parameters.key_bytes + parameters.signing_bytes + SIGNATURE * parameters.signed
        return HEADER + len(parameters.packed()) + (_ENTRY + keys) * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        p = parameters
        # Parameters other than one's own may have another length: that is for the client to tell.
        self._expect(type(self.parameters) is bytes, "parameters", "bytes")
        self._expect_bytes("nonce", self.nonce, 32)
        self._expect(isinstance(self.roster, tuple), "roster", "an array")
        for entry in self.roster:
            self._expect(isinstance(entry, tuple) and len(entry) == 3, "each member", "a triple")
            self._expect_bytes("channel_key", entry[1], p.key_bytes)
            self._expect_bytes("signing_key", entry[2], p.signing_bytes)
        self._expect_clients("roster", tuple(entry[0] for entry in self.roster), p)
        parts = [part for entry in self.roster for part in key_parts(entry[1])]
        self._expect(all(map(_is_coordinate, parts)), "channel_key", "canonical coordinates")
        self._expect(len(set(parts)) == len(parts), "roster", "without a key named twice")
        wanted = len(self.roster) if p.signed else 0
        fits = isinstance(self.signatures, tuple) and len(self.signatures) == wanted
        self._expect(fits, "signatures", f"an array of {wanted}")
        for signature in self.signatures:
            self._expect_bytes("each of signatures", signature, SIGNATURE)


@dataclass(frozen=True, kw_only=True)
class Commit(Message):
    """A client's word that it will answer this set of survivors and no other in this round."""

    protocols = ALL
    from_server = False
    digest: bytes

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("digest", self.digest, 32)


@dataclass(frozen=True, kw_only=True)
class Quorum(Message):
    """The signatures of the Commits: (client, signature) in order."""

    protocols = ALL
    from_server = True
    signatures: tuple[tuple[int, bytes], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + (NUMBER + SIGNATURE + 4) * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        self._expect(isinstance(self.signatures, tuple), "signatures", "an array")
        for entry in self.signatures:
            self._expect(isinstance(entry, tuple) and len(entry) == 2, "each entry", "a pair")
            self._expect_bytes("each signature", entry[1], SIGNATURE)
        numbers = tuple(entry[0] for entry in self.signatures)
        self._expect_clients("signatures", numbers, parameters)


@dataclass(frozen=True, kw_only=True)
class Result(Message):
    """The sum of the survivors' weighted updates as residues, and of their weights."""

    protocols = SUMS
    from_server = True
    survivors: tuple[int, ...]
    sum: bytes
    weight: int

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        words = parameters.residues * len(parameters.field.planes)
        return HEADER + WORD * words + NUMBER * parameters.clients

    def _check_body(self, parameters: Parameters) -> None:
        p = parameters
        self._expect_clients("survivors", self.survivors, p)
        self._expect_planes("sum", self.sum, p.residues, p.field)
        self._expect_int("weight", self.weight, 0, len(self.survivors) * p.max_weight + 1)

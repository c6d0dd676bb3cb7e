"""A party's whole state as encrypted bytes, and the party made again from them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
import torch
from cryptography.exceptions import InvalidTag

from pyfed.checks import expect_key
from pyfed.errors import ArgumentError, DtypeError, ProtocolError
from pyfed.keys import Key
from pyfed.secagg.channel import NONCE, ChannelKey, Peers, open_segment, seal_segment
from pyfed.secagg.journal import Journal
from pyfed.secagg.releasing import Releasing
from pyfed.secagg.result import RoundResult
from pyfed.secagg.session import SEALING, SEGMENT, SERVER, Member, Parameters, canonical_parts
from pyfed.secagg.wire import Message

if TYPE_CHECKING:
    from pyfed.secagg.client import Client
    from pyfed.secagg.identity import Identity
    from pyfed.secagg.party import Party
    from pyfed.secagg.protocol import Protocol
    from pyfed.secagg.server import Server

MAGIC = b"pyfed/v2/state"
OLDER = (b"pyfed/v1/state",)
_HEAD = struct.Struct("<qQ32sI")  # number, round, digest of the parameters, segments
_PLAIN = (type(None), bool, int, float, str, bytes)
_GROUPS: dict[type, str] = {tuple: "tuple", list: "list", set: "set", frozenset: "frozenset"}


def saved(party: Party, key: Key, outbox: bool) -> bytes:
    """Every attribute of a party but those that are given again: header ‖ sealed segments."""
    expect_key("save", key)
    state = {n: v for n, v in vars(party).items() if n not in party._FIXED}
    if not outbox:
        state |= {name: () for name in ("_outbox", "_answered") if name in state}
    plain = b"".join(canonical_parts(_packed(state)))
    view = memoryview(plain)
    pieces = [view[at : at + SEGMENT] for at in range(0, len(view), SEGMENT)]
    digest = party._parameters.digest()
    head = MAGIC + _HEAD.pack(party._number, party._round, digest, len(pieces))
    sealing = key.derive("state")
    try:
        # One key seals many states, each under fresh random nonces.
        segments = [
            seal_segment(sealing, os.urandom(NONCE), piece, head + struct.pack("<I", number))
            for number, piece in enumerate(pieces)
        ]
        return b"".join((head, *segments))
    finally:
        sealing.wipe()


def resumed(
    protocol: Protocol,
    state: bytes,
    key: Key,
    journal: Journal | None,
    identity: Identity | None,
    deadlines: Mapping[str, float] | None,
    clock: Callable[[], float],
) -> Client | Server:
    """See :meth:`pyfed.secagg.protocol.Protocol.resume`."""
    expect_key("resume", key)
    number, round_, plain = _opened(protocol.parameters, state, key)
    party: Client | Server
    if number != SERVER and deadlines is not None:
        raise ArgumentError(
            f"resume: deadlines are a server's; this is the state of client {number}"
        )
    if number == SERVER and (journal is not None or identity is not None):
        raise ArgumentError("resume: journal and identity are a client's; this is a server's state")
    if number == SERVER:
        party = protocol.server(round_, deadlines=deadlines, clock=clock)
    else:  # without the keys that a new client makes
        party = object.__new__(protocol._client_type())
        Releasing.__init__(party, protocol, number, round_, journal, identity)
    values = _restored(msgpack.unpackb(plain, use_list=True), protocol)
    if set(values) != _kept_names(protocol, number, identity):
        raise ProtocolError("resume: the state is of another version")
    for name, value in values.items():
        setattr(party, name, value)
    party._rejoin()
    return party


_NAMES: dict[type[Party], frozenset[str]] = {}
"""Type of a party → the attributes that its state holds."""


def _kept_names(protocol: Protocol, number: int, identity: Identity | None) -> frozenset[str]:
    """The attributes that the state of a party holds, as one that is made anew has them."""
    kind = protocol._server_type() if number == SERVER else protocol._client_type()
    if kind not in _NAMES:
        party: Party
        if number == SERVER:
            party = protocol.server(0)
        else:
            party = protocol.client(number, 0, identity=identity)
            party.close()
        _NAMES[kind] = frozenset(name for name in vars(party) if name not in party._FIXED)
    return _NAMES[kind]


def _opened(parameters: Parameters, state: bytes, key: Key) -> tuple[int, int, bytes]:
    """Number, round and plaintext of a saved state."""
    if not isinstance(state, bytes):
        raise DtypeError(f"resume: state is {type(state).__name__}; it must be bytes")
    size = len(MAGIC) + _HEAD.size
    head, body = state[:size], memoryview(state)[size:]
    if head.startswith(OLDER):
        raise ProtocolError("resume: the state is of another version")
    if len(head) < size or not head.startswith(MAGIC):
        raise ProtocolError("resume: the state is damaged: it has no header")
    number, round_, digest, count = _HEAD.unpack(head[len(MAGIC) :])
    if digest != parameters.digest():
        raise ProtocolError("resume: the state is of another protocol, or of other parameters")
    if count != max(1, -(-len(body) // (SEGMENT + SEALING))):
        raise ProtocolError("resume: the state is damaged: it is cut short or too long")
    sealing = key.derive("state")
    plain = []
    try:
        for segment in range(count):
            at = segment * (SEGMENT + SEALING)
            sealed = body[at : at + SEGMENT + SEALING]
            plain.append(open_segment(sealing, sealed, head + struct.pack("<I", segment)))
    except (InvalidTag, ValueError):
        raise ProtocolError(
            "resume: the state is damaged, or was saved under another key"
        ) from None
    finally:
        sealing.wipe()
    return number, round_, b"".join(plain)


def _packed(value: Any) -> Any:
    """A value as msgpack's types: plain ones as they are, others as [tag, content]."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Member):
        return ["Member", [list(value)]]
    if type(value) in _GROUPS:
        members = sorted(value) if isinstance(value, set | frozenset) else value
        return [_GROUPS[type(value)], [_packed(member) for member in members]]
    if isinstance(value, dict):
        return ["dict", [[_packed(k), _packed(v)] for k, v in value.items()]]
    if isinstance(value, torch.Tensor):
        words = value.detach().cpu().contiguous().numpy().tobytes()
        return ["tensor", [str(value.dtype), list(value.shape), str(value.device), words]]
    if isinstance(value, Key):
        return ["Key", [value.reveal()]]
    if isinstance(value, ChannelKey):
        return ["ChannelKey", [value.reveal()]]
    if isinstance(value, Peers):
        return ["Peers", [_packed(vars(value))]]
    if isinstance(value, Message):
        return ["Message", [value.to_bytes()]]
    if isinstance(value, torch.device):
        return ["device", [str(value)]]
    if isinstance(value, RoundResult):
        content = (value.residues, value.included, value.total_weight, value.wrong)
        return ["RoundResult", [_packed(content)]]
    raise DtypeError(f"save: a {type(value).__name__} cannot be saved")


def _restored(value: Any, protocol: Protocol) -> Any:
    """What :func:`_packed` packed. The bytes were authenticated, so they are of that form."""
    if not isinstance(value, list):
        return value
    tag, content = value
    for kind, name in _GROUPS.items():
        if tag == name:
            return kind(_restored(member, protocol) for member in content)
    if tag == "dict":
        return {_restored(k, protocol): _restored(v, protocol) for k, v in content}
    if tag == "tensor":
        name, shape, device, words = content
        flat = torch.from_numpy(np.frombuffer(words, dtype=name.removeprefix("torch.")).copy())
        return flat.reshape(shape).to(device)
    return _OBJECTS[tag](*content, protocol)


def _channel(secret: bytes) -> ChannelKey:
    private = Key(secret)
    try:
        return ChannelKey(private)
    finally:
        private.wipe()


def _peers(packed: Any, protocol: Protocol) -> Peers:
    peers = Peers.__new__(Peers)
    vars(peers).update(_restored(packed, protocol))
    return peers


def _result(packed: Any, protocol: Protocol) -> RoundResult:
    residues, included, weight, wrong = _restored(packed, protocol)
    length = protocol.parameters.length
    return RoundResult(residues, included, weight, protocol.fixed, length, wrong)


_OBJECTS: dict[str, Callable[..., Any]] = {
    "Member": lambda entry, protocol: Member(*entry),
    "device": lambda name, protocol: torch.device(name),
    "Key": lambda secret, protocol: Key(secret),
    "ChannelKey": lambda secret, protocol: _channel(secret),
    "Peers": _peers,
    "Message": lambda data, protocol: Message.from_bytes(data, protocol.parameters),
    "RoundResult": _result,
}

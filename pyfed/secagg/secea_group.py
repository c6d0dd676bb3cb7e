"""A key that all clients of a group have and the server has not, from a part of every client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pyfed.encoding import Encoding
from pyfed.errors import ProtocolError
from pyfed.keys import KEY_BYTES, Key, hkdf_sha256, length_prefixed
from pyfed.secagg.channel import Peers
from pyfed.secagg.client import Client
from pyfed.secagg.party import whole_or_closed
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.server import Server
from pyfed.secagg.session import SERVER, Parameters, survivors_digest
from pyfed.secagg.wire import HEADER, Box, Message

NAME = "GroupKey"
USE = "group"
_PER_BOX = 16  # bytes: more than a recipient and the frame of its box take


@dataclass(frozen=True)
class GroupParameters(Parameters):
    """The public numbers of a group: a box holds 32 bytes, and nothing is summed."""

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases, in order."""
        return ("keys", "share", "upload")

    @property
    def columns(self) -> int:
        """Words of a part of the key."""
        return KEY_BYTES // 4


class GroupKey(Protocol):
    """Agrees on a group key, from which pseudonyms are made that the server cannot read.

    Every client sends every other 32 random bytes in a box. The key is HKDF-SHA256 of the parts
    of all clients whose boxes reached the server, in order, so it is as random as the best part.
    Then each client tells the server the *seed* HKDF(key, "union-salt"): equal seeds show that
    the keys are equal, and the union's tables are salted with it, so that clients who were given
    other parts cannot be summed with the rest.

    A client that cannot open a box has no key and is lost. What a client knows, whoever colludes
    with it knows.

    Args:
        parameters: clients, privacy, dropouts and mode; see ``SecEA.group``.
        fixed: unused.
        identities: the pinned public keys, or ().
    """

    name: ClassVar[str] = NAME

    def __init__(
        self, parameters: GroupParameters, fixed: Encoding, identities: tuple[bytes, ...]
    ) -> None:
        self.parameters = parameters
        self.fixed = fixed
        self.identities = identities

    def _client_type(self) -> type[GroupClient]:
        return GroupClient

    def _server_type(self) -> type[GroupServer]:
        return GroupServer


class _Boxed(Message):
    protocols: ClassVar[tuple[str, ...]] = ()
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    @classmethod
    def largest(cls, parameters: Parameters) -> int:
        """The most bytes such a message can have."""
        return HEADER + (_PER_BOX + sum(parameters.segments)) * parameters.clients


@dataclass(frozen=True, kw_only=True)
class GroupParts(_Boxed):
    """A client's part of the key, a box for each other member: (recipient, box) in order."""

    protocols = (NAME,)
    from_server = False
    boxes: tuple[tuple[int, Box], ...]

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.sender, parameters)


@dataclass(frozen=True, kw_only=True)
class GroupInbox(_Boxed):
    """The parts of all others for one client: (sender, box) in order."""

    protocols = (NAME,)
    from_server = True
    boxes: tuple[tuple[int, Box], ...]

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_boxes(self.boxes, self.recipient, parameters)


@dataclass(frozen=True, kw_only=True)
class GroupSeed(Message):
    """The public seed that tells whether clients have the same key."""

    protocols = (NAME,)
    from_server = False
    seed: bytes

    def _check_body(self, parameters: Parameters) -> None:
        self._expect_bytes("seed", self.seed, KEY_BYTES)


def union_seed(group_key: Key) -> bytes:
    """HKDF(group key, "union-salt"): says nothing about the key but whether two are equal."""
    derived = group_key.derive("union-salt")
    try:
        return derived.reveal()
    finally:
        derived.wipe()


class GroupClient(Client):
    """A client of :class:`GroupKey`: ``start()``, ``handle``, then :attr:`group_key`."""

    _EXPECTED: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys": ("Roster",),
        "share": ("GroupInbox",),
    }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._group_key: Key | None = None

    @whole_or_closed
    def start(self, update: Any = None, weight: int = 1) -> list[Message]:
        """Enter; there is nothing to give."""
        self._expect_fresh()
        return self._entered()

    @property
    def group_key(self) -> Key:
        """The key; ProtocolError until this client has it, and when it is closed."""
        if self._phase == "closed":
            raise self._refusal("the round is closed, and its key is wiped")
        if self._group_key is None:
            raise self._refusal("there is no group key yet")
        return self._group_key

    def _part(self) -> Key:
        return self._root.derive("group")

    def _deal(self, peers: Peers) -> list[Message]:
        part = self._part()
        try:
            data = memoryview(part.reveal())
            boxes = tuple((i, peers.seal(i, USE, "GroupParts", data)) for i in peers.numbers)
        finally:
            part.wipe()
        return [GroupParts(**self._envelope(SERVER), boxes=boxes)]

    def _on_groupinbox(self, message: GroupInbox) -> list[Message]:
        """Open every part; the key is made of all of them."""
        assert self._peers is not None
        senders = {sender for sender, _ in message.boxes}
        if not senders <= set(self._members):
            raise self._refusal("GroupInbox names a client that is not in the roster", SERVER)
        self._expect_enough("GroupInbox", len(senders) + 1)
        own = self._part()
        parts = {self._number: bytearray(own.reveal())}
        own.wipe()
        try:
            for sender, box in message.boxes:
                parts[sender] = bytearray(KEY_BYTES)
                into = memoryview(parts[sender])
                if not self._peers.open_into(sender, USE, "GroupParts", box, into):
                    raise self._refusal(f"the part of client {sender} is not genuine", SERVER)
            together = b"".join(bytes(parts[sender]) for sender in sorted(parts))
        finally:
            for part in parts.values():
                part[:] = bytes(KEY_BYTES)
        info = length_prefixed(b"group") + survivors_digest(tuple(sorted(parts)))
        self._group_key = Key(hkdf_sha256(together, self._session, info))
        self._wipe_round()
        self._phase = "done"
        return [GroupSeed(**self._envelope(SERVER), seed=union_seed(self._group_key))]

    def _wipe_round(self) -> None:
        super()._wipe()

    def _wipe(self) -> None:
        super()._wipe()
        if self._group_key is not None:
            self._group_key.wipe()

    def _keep(self, encoded: torch.Tensor, weight: int) -> None:
        raise NotImplementedError

    def _answer(self) -> list[Message]:
        raise NotImplementedError


class GroupServer(Server):
    """The server of :class:`GroupKey`; at the end :attr:`seed` and :attr:`included`."""

    _EXPECTED: ClassVar[dict[str, tuple[str, ...]]] = {
        "keys": ("Hello",),
        "share": ("GroupParts",),
        "upload": ("GroupSeed",),
    }

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._parts: dict[int, dict[int, Box]] = {}
        self._seeds: dict[int, bytes] = {}
        self._seed = b""

    @property
    def seed(self) -> bytes:
        """The seed that the clients agree on; ProtocolError until the end."""
        self._expect_done()
        return self._seed

    @property
    def included(self) -> frozenset[int]:
        """The clients that have the key; ProtocolError until the end."""
        self._expect_done()
        return frozenset(self._survivors)

    def _expect_done(self) -> None:
        if self._phase != "done":
            raise self._refusal("the group has no key yet")

    def _on_groupparts(self, message: GroupParts) -> None:
        if {recipient for recipient, _ in message.boxes} != self._expected - {message.sender}:
            raise self._refusal("GroupParts must hold a box for every other member", message.sender)
        self._parts[message.sender] = dict(message.boxes)

    def _close_share(self) -> list[Message]:
        left = self._left()
        parts, self._parts = self._parts, {}
        self._next(left)
        return [
            GroupInbox(
                **self._envelope(client),
                boxes=tuple((i, parts[i][client]) for i in left if i != client),
            )
            for client in left
        ]

    def _on_groupseed(self, message: GroupSeed) -> None:
        self._seeds[message.sender] = message.seed

    def _close_upload(self) -> list[Message]:
        left = self._left()
        seeds = {self._seeds[client] for client in left}
        if len(seeds) > 1:
            by = {seed.hex()[:8]: [c for c in left if self._seeds[c] == seed] for seed in seeds}
            raise ProtocolError(
                f"{NAME}: clients have different keys: {by}; one of them sent unequal parts",
                phase=self._phase,
            )
        self._seed = self._seeds[left[0]]
        self._survivors = left
        self._next(())
        return []

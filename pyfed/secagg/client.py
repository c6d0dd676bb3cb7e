"""A client of any protocol: its start, the keys, and the roster."""

from __future__ import annotations

from abc import abstractmethod

import torch

from pyfed.checks import check, expect_device, expect_int, expect_key
from pyfed.errors import ArgumentError
from pyfed.keys import Key
from pyfed.secagg.channel import ChannelKey, Peers
from pyfed.secagg.common import Hello, Roster
from pyfed.secagg.differences import differences
from pyfed.secagg.identity import Identity
from pyfed.secagg.journal import Journal
from pyfed.secagg.party import one_at_a_time, whole_or_closed
from pyfed.secagg.protocol import Protocol
from pyfed.secagg.quorum import unpinned_member
from pyfed.secagg.releasing import Releasing
from pyfed.secagg.session import SERVER, Member
from pyfed.secagg.wire import Message


class Client(Releasing):
    """One client in one round: ``start`` gives its first message, ``handle`` each next one.

    Where the protocol is :attr:`~pyfed.secagg.protocol.Protocol.offline`, ``enter`` gives the first
    message before there is an update, so that keys and shares are exchanged meanwhile; ``provide``
    hands the update over before the Inbox is handled.

    A message that is refused raises ProtocolError and changes nothing, with one exception: a
    second, different set of survivors closes the round, since answering both would uncover
    secrets. Secrets are overwritten as soon as they have served, and by :meth:`close`. A step that
    something else cuts off, such as memory that ran out, closes the client; where the journal
    could not be written, the step may be tried again.

    A client is a function of its round key and of what it is given: a client that is made again
    from them sends the same bytes.

    Args:
        protocol: the session's numbers.
        index: number of this client.
        round_: number of the round.
        key: the round key, copied; None takes a fresh one from the operating system.
        journal: keeps what is released; None keeps nothing.
        identity: the key for signatures, under a malicious server.
    """

    def __init__(
        self,
        protocol: Protocol,
        index: int,
        round_: int,
        key: Key | None = None,
        journal: Journal | None = None,
        identity: Identity | None = None,
    ) -> None:
        name = protocol.name
        expect_int(name, "index", index, 0, protocol.parameters.clients)
        expect_int(name, "round", round_, 0, 2**64)
        if key is not None:
            expect_key(name, key)
        super().__init__(protocol, index, round_, journal, identity)
        self._root = Key.generate() if key is None else Key(key.reveal())
        channel = self._root.derive("channel")
        self._channel: ChannelKey | None = ChannelKey(channel)
        channel.wipe()
        self._started = False
        self._provided = False
        self._peers: Peers | None = None
        self._members: tuple[int, ...] = ()

    @whole_or_closed
    def start(self, update: torch.Tensor, weight: int = 1) -> list[Message]:
        """Encode an update and enter the round.

        Args:
            update: what the session's encoding takes, on any device: finite float32, float16 or
                bfloat16 (length,), or votes as bool (length,) or packed uint8 (⌈length / 8⌉,).
            weight: an integer from 0 to the ``max_weight`` of the encoding; of votes it is 1.

        Raises:
            DtypeError, ArgumentError: an argument is wrong; ``start`` may be called again.
            ProtocolError: the client has started already.
        """
        self._expect_fresh()
        self._hand_over(update, weight, overwrite=False)
        return self._entered()

    @whole_or_closed
    def enter(self, device: torch.device | str = "cpu") -> list[Message]:
        """Enter the round before the update is known; :meth:`provide` hands it over.

        The round goes on without it as far as the shares. A client that enters and is then given
        an update sends the same bytes as one that starts with it.

        Args:
            device: where masks are made as long as there is no update.

        Raises:
            DtypeError, ArgumentError: ``device`` is none, or the protocol's clients deal the update
                itself, so that they cannot enter without it.
            ProtocolError: the client has started already.

        Example:
            >>> import torch, pyfed
            >>> from pyfed.secagg import LightSecAgg
            >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=3)
            >>> protocol = LightSecAgg(clients=3, privacy=1, dropouts=0, length=2, fixed=fixed)
            >>> client = protocol.client(0, round=1)
            >>> [message.kind for message in client.enter()]
            ['Hello']
            >>> client.provide(torch.tensor([0.5, -0.25]))  # any time before the Inbox comes
            >>> client.close()
        """
        if not self._protocol.offline:
            raise ArgumentError(
                f"{self._protocol.name}: its clients deal the update itself, so they cannot enter "
                "a round before it is known; call start with the update"
            )
        self._expect_fresh()
        self._home = str(expect_device(self._protocol.name, device))
        return self._entered()

    @whole_or_closed
    def provide(self, update: torch.Tensor, weight: int = 1, overwrite: bool = False) -> None:
        """Hand over the update of a client that has entered, once.

        Args:
            update: as :meth:`start` takes it.
            weight: as :meth:`start` takes it.
            overwrite: whether the client may keep the update in the memory that it is given in,
                and overwrite it; for float32 this saves a copy.

        Raises:
            DtypeError, ArgumentError: an argument is wrong; ``provide`` may be called again.
            ProtocolError: the client has not entered, or has an update already.
        """
        if self._phase == "closed":
            raise self._refusal("the round is closed")
        if not self._started:
            raise self._refusal("provide comes after enter, which has not been called")
        if self._provided:
            raise self._refusal("there is an update; a client serves one update in one round")
        self._hand_over(update, weight, overwrite)

    def _hand_over(self, update: torch.Tensor, weight: int, overwrite: bool) -> None:
        """Check, encode and keep the one update of the round."""
        flat = self._protocol.expect_update(update)
        self._take(flat, self._protocol.fixed.check_weight(weight), overwrite)
        self._home = str(flat.device)
        self._provided = True

    def _take(self, flat: torch.Tensor, weight: int, overwrite: bool) -> None:
        """Encode an update and keep it; raises ArgumentError where it holds a bad value.

        Args:
            flat: the update, as it is given.
            weight: of the update.
            overwrite: whether ``flat`` may become the client's own; what is encoded is not kept.
        """
        rounding = self._root.derive("rounding")
        try:
            length = self._parameters.length
            encoded = self._protocol.fixed.encode_update(flat, length, rounding, weight)
        finally:
            rounding.wipe()
        if flat.is_cuda:
            check()  # a NaN is told here, not after the mask is spent
        try:
            self._keep(encoded, weight)
        finally:
            encoded.zero_()

    def _expect_fresh(self) -> None:
        if self._phase == "closed":
            raise self._refusal("the round is closed")
        if self._started or self._phase != "keys":
            raise self._refusal("start was called before; a client serves one update in one round")

    def _entered(self) -> list[Message]:
        """Hello: this client has started."""
        assert self._channel is not None
        self._started = True
        signing = b"" if self._identity is None else self._identity.public
        hello = Hello(
            **self._envelope(SERVER), channel_key=self._public_keys(), signing_key=signing
        )
        return self._sent([hello])

    @whole_or_closed
    def handle(self, message: Message, source: int) -> list[Message]:
        """Take a message and give the answer to it, if there is one.

        Args:
            message: what came.
            source: the peer that the engine authenticated; -1 is the server.

        Raises:
            ProtocolError: the message is malformed, forged, stale or out of order.
        """
        if not self._started:
            raise self._refusal("start has not been called")
        self._check_envelope(message, source)
        if self._protocol.offline and not self._provided and message.kind == "Inbox":
            raise self._refusal("Inbox came before the update; call provide first")
        answers: list[Message] = getattr(self, f"_on_{message.kind.lower()}")(message)
        return self._sent(answers)

    @one_at_a_time
    def close(self) -> None:
        """Overwrite every secret of the round; the client takes no message afterwards."""
        try:
            self._wipe()
        finally:
            self._phase = "closed"

    @abstractmethod
    def _keep(self, encoded: torch.Tensor, weight: int) -> None:
        """Keep a copy of an encoded update, int32 (residues,), and its weight."""

    def _partners(self, publics: dict[int, bytes]) -> dict[int, bytes]:
        """The members with whom this client exchanges boxes, and their keys; by default all."""
        return publics

    @abstractmethod
    def _deal(self, peers: Peers) -> list[Message]:
        """The messages that follow the roster, which is checked; ``self._peers`` is there too.

        When it raises, the client is as it was before the roster came.
        """

    def _wipe(self) -> None:
        """Overwrite the update and every key; subclasses add what they hold."""
        self._root.wipe()
        if self._peers is not None:
            self._peers.wipe()
        self._channel = None

    def _public_keys(self) -> bytes:
        """What Hello shows: ``key_bytes`` bytes, of which the first 32 are for boxes."""
        assert self._channel is not None
        return self._channel.public

    def _sent(self, messages: list[Message]) -> list[Message]:
        """Sign messages where that is the rule, and keep them for a repetition."""
        if self._identity is not None:
            signed = self._identity.signed
            messages = [m if m.signature else signed(m) for m in messages]
        if messages:
            self._outbox = tuple(messages)
        return messages

    def _session_of(self, message: Message) -> bytes:
        if not isinstance(message, Roster):
            return self._session
        if message.parameters != self._parameters.packed():
            told = differences(self._parameters, message.parameters)
            raise self._refusal(f"Roster has other parameters than this client: {told}", SERVER)
        return self._parameters.session(message.roster, message.nonce)

    def _on_roster(self, message: Roster) -> list[Message]:
        """Agree on a secret with every member, then deal."""
        assert self._channel is not None
        signing = b"" if self._identity is None else self._identity.public
        if Member(self._number, self._public_keys(), signing) not in message.roster:
            raise self._refusal("Roster does not hold this client's own key", SERVER)
        self._expect_enough("Roster", len(message.roster))
        self._expect_pinned(message)
        publics = {client: keys[:32] for client, keys, _ in message.roster}
        partners = self._partners(publics)
        nonces = self._root.derive("nonce")
        try:
            peers = Peers(
                self._channel, self._number, partners, message.session, self._round, nonces
            )
        finally:
            nonces.wipe()
        before = self._session
        self._peers, self._members, self._session = peers, tuple(publics), message.session
        try:
            self._record("roster", message.session)
            answers = self._deal(peers)
        except BaseException:
            peers.wipe()
            self._peers, self._members, self._session = None, (), before
            raise
        self._channel, self._phase = None, "share"
        return answers

    def _expect_pinned(self, message: Roster) -> None:
        """Under a malicious server: every member's keys are signed by its pinned identity."""
        if not self._parameters.signed:
            return
        false = unpinned_member(self._protocol, message, self._envelope(SERVER))
        if false is not None:
            raise self._refusal(
                f"Roster holds keys of client {false} that its pinned identity has not signed",
                SERVER,
            )

"""LightSecAgg with checked dealers: who deals shares that are not of one vector is named.

Every box holds, behind a share, the recipient's pads; Inbox brings the coin, and Upload an answer
about every dealer. See :class:`pyfed.dealing.DealerCheck`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from pyfed.errors import DecodeError
from pyfed.keys import Key
from pyfed.secagg import dealer_messages, messages
from pyfed.secagg.lightsecagg_client import LightSecAggClient
from pyfed.secagg.lightsecagg_server import LightSecAggServer
from pyfed.secagg.messages import Message
from pyfed.secagg.party import pack_words, unpack_words
from pyfed.secagg.session import SERVER


class DealerCheckClient(LightSecAggClient):
    """A client that deals pads beside its shares, and answers one coin about all it holds."""

    def _dealt_shares(self) -> torch.Tensor:
        """Shares with the pads behind them: int32 (clients, columns + challenges)."""
        assert self._protocol.check is not None
        shares = super()._dealt_shares()
        key = self._root.derive("pad")
        pads = self._protocol.check.pad(key)
        try:
            return torch.cat([shares, pads], dim=1)
        finally:
            key.wipe()
            pads.zero_()
            shares.zero_()

    def _upload(
        self, inbox: messages.Inbox, masked: bytes, complaints: tuple[int, ...]
    ) -> messages.Upload:
        """Answer the coin about every dealer; the pads serve no second one."""
        assert isinstance(inbox, dealer_messages.Inbox) and self._protocol.check is not None
        # Two answers under one pad would show a combination of shares: a resumed client, whose
        # upload would be the same, must not meet another coin.
        self._record("coin", hashlib.sha256(inbox.coin).digest())
        columns = self._parameters.columns
        shares = self._held[:, :columns].contiguous()
        try:
            answers = self._protocol.check.respond(inbox.coin, shares, self._held[:, columns:])
        finally:
            shares.zero_()
        return dealer_messages.Upload(
            **self._envelope(SERVER),
            masked=masked,
            complaints=complaints,
            answers=pack_words(answers.reshape(-1)),
        )

    def _uploaded(self) -> None:
        super()._uploaded()
        wide = self._held
        self._held = wide[:, : self._parameters.columns].contiguous()
        wide.zero_()


class DealerCheckServer(LightSecAggServer):
    """A server that tosses the coin once all boxes are there, and judges every dealer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._coin = b""
        # Client → its answers about everybody: int32 (clients, challenges).
        self._responses: dict[int, torch.Tensor] = {}
        self._inconsistent: dict[int, tuple[int, ...]] = {}

    @property
    def inconsistent(self) -> dict[int, tuple[int, ...]]:
        """Dealer → the clients whose answers about it are off; () where they cannot be told.

        Known when the phase ``upload`` is closed. Such a row does not tell who is to blame, unless
        more than T clients are off.
        """
        return dict(self._inconsistent)

    def _close_share(self) -> list[Message]:
        inboxes = super()._close_share()
        self._coin = Key.generate().reveal()  # public from here on, and unknown to every dealer
        out: list[Message] = []
        for inbox in inboxes:
            assert isinstance(inbox, messages.Inbox)
            out.append(
                dealer_messages.Inbox(
                    **self._envelope(inbox.recipient),
                    dealers=inbox.dealers,
                    boxes=inbox.boxes,
                    coin=self._coin,
                )
            )
        return out

    def _on_upload(self, message: messages.Upload) -> None:
        assert isinstance(message, dealer_messages.Upload) and self._protocol.check is not None
        super()._on_upload(message)
        shape = (self._parameters.clients, self._protocol.check.challenges)
        answers = torch.empty(shape, dtype=torch.int32)
        unpack_words(message.answers, answers.view(-1))
        self._responses[message.sender] = answers

    def _faults(self) -> dict[int, tuple[int, ...]]:
        """Complaints, and for each client the dealers about whom its answer is off.

        A dealing beyond repair counts as everybody's complaint.
        """
        faults = {client: set(about) for client, about in super()._faults().items()}
        for dealer in sorted(self._came):
            holders = sorted(c for c in self._came if dealer not in faults[c])
            off = self._off(dealer, holders)
            if off is None or off:
                self._inconsistent[dealer] = off or ()
            for holder in holders if off is None else off:
                faults[holder].add(dealer)
        return {client: tuple(sorted(about)) for client, about in faults.items()}

    def _off(self, dealer: int, holders: list[int]) -> tuple[int, ...] | None:
        """The holders whose answers about a dealer are off; None when they cannot be told."""
        assert self._protocol.check is not None
        if len(holders) < self._protocol.code.threshold:
            return ()  # so many complaints leave fewer than N - D survivors
        answers = torch.stack([self._responses[holder][dealer] for holder in holders])
        try:
            return self._protocol.check.verdict(answers, holders)
        except DecodeError:
            return None

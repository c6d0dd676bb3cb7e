"""What ranks do before they have updates: keys, and shares of masks in boxes."""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pyfed.checks import expect_int, expect_key
from pyfed.engines.distributed.agreement import Step, agreed
from pyfed.engines.distributed.link import Link
from pyfed.errors import ArgumentError, DtypeError, ProtocolError, ThresholdError
from pyfed.keys import Key
from pyfed.secagg.client import Client
from pyfed.secagg.lightsecagg import LightSecAgg
from pyfed.secagg.messages import Hello, Inbox, Message, Roster, Share
from pyfed.secagg.session import PHASES, SERVER, Member

OP = "SecureSum"
_KEY_WORDS = 8  # of a public key
_NEXT = {"share": "share()", "upload": "reduce()", "over": "a new SecureSum"}


class OfflineRound:
    """A round of LightSecAgg over a process group, up to the uploads.

    See :class:`pyfed.engines.distributed.SecureSum`, which takes the same arguments.
    """

    def __init__(
        self,
        protocol: LightSecAgg,
        group: Any = None,
        round: int = 0,
        key: Key | None = None,
        lost: str | None = None,
    ) -> None:
        self._link = Link(OP, group)
        self._protocol, self._round, self._lost = protocol, round, lost
        self._client: Client | None = None
        self._inbox: Inbox | None = None
        self._dealers: tuple[int, ...] = ()
        self._stage = "keys"
        self._traffic: dict[tuple[str, str], int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)

        def prepare() -> Step:
            digest = _expect(protocol, round, key, lost, self._link.size)
            public = bytes(4 * _KEY_WORDS)
            if self._stays("keys"):
                self._client = protocol.client(self._link.rank, round, key)
                (hello,) = self._client.enter()
                assert isinstance(hello, Hello)
                public = hello.channel_key
            words = np.frombuffer(public, dtype="<u4").tolist()
            return Step(None, (digest, f"round {round}"), [int(self._stays("keys")), *words])

        with self._phase("keys"):
            _, told = agreed(OP, self._link, prepare, told=1 + _KEY_WORDS)
            members = [rank for rank, row in enumerate(told) if row[0]]
            self._expect_enough("keys", members)
            keys = {rank: np.array(told[rank][1:], dtype="<u4").tobytes() for rank in members}
            self._roster = tuple(Member(rank, keys[rank], b"") for rank in members)
            together = b"".join(keys.values())
            self._nonce = hashlib.sha256(b"pyfed/v1/collective" + together).digest()
            self._session = protocol.parameters.session(self._roster, self._nonce)
            self._stage = "share"

    def share(self) -> None:
        """Draw this rank's mask, and exchange its shares with the other ranks.

        Raises:
            ProtocolError: it is not the time for it, or a rank's public key is bad.
            ThresholdError: more ranks are lost than the protocol bears.
        """

        def prepare() -> Step:
            self._expect_stage("share")
            boxes: dict[int, bytes] = {}
            if self._client is not None and self._stays("share"):
                (share,) = self._handled(
                    Roster,
                    parameters=self._protocol.parameters.packed(),
                    roster=self._roster,
                    nonce=self._nonce,
                )
                assert isinstance(share, Share)
                boxes = {peer: b"".join(box) for peer, box in share.boxes}
            return Step(boxes, ("share",), [int(self._stays("share"))])

        with self._phase("share"):
            boxes, told = agreed(f"{OP}.share", self._link, prepare, told=1, error=ProtocolError)
            assert isinstance(boxes, dict)
            self._dealers = tuple(rank for rank, row in enumerate(told) if row[0])
            self._expect_enough("share", self._dealers)
            self._inbox = self._exchanged(boxes)
            self._stage = "upload"

    def close(self) -> None:
        """Overwrite every secret of the round; no step can be taken afterwards."""
        if self._client is not None:
            self._client.close()
        self._inbox, self._stage = None, "over"

    def _exchanged(self, boxes: dict[int, bytes]) -> Inbox | None:
        """The boxes for this rank; None where it deals none, and so gets none."""
        p, link = self._protocol.parameters, self._link
        mine, words = link.rank in self._dealers, sum(p.segments) // 4
        others = [rank for rank in self._dealers if rank != link.rank]
        sizes = [words if mine and rank in others else 0 for rank in range(link.size)]
        sealed = b"".join(boxes[rank] for rank in others) if mine else b""
        given = torch.from_numpy(np.frombuffer(sealed, dtype="<i4").copy())
        raw = link.exchange(given, sizes, sizes).numpy().tobytes()
        if not mine:
            return None
        came, at = [], 0
        for rank in others:
            box = []
            for size in p.segments:
                box.append(raw[at : at + size])
                at += size
            came.append((rank, tuple(box)))
        return Inbox(**self._envelope(), dealers=self._dealers, boxes=tuple(came))

    def _handled(self, kind: type[Message], **fields: Any) -> list[Message]:
        """What this rank's client answers to a message that every rank makes for itself."""
        assert self._client is not None
        return self._client.handle(kind(**self._envelope(), **fields), SERVER)

    def _envelope(self) -> dict[str, Any]:
        name = self._protocol.parameters.protocol
        envelope = {"protocol": name, "session": self._session, "round": self._round}
        return {**envelope, "sender": SERVER, "recipient": self._link.rank}

    def _stays(self, phase: str) -> bool:
        """Whether this rank is not lost in a phase."""
        return self._lost is None or PHASES.index(self._lost) > PHASES.index(phase)

    def _expect_stage(self, stage: str) -> None:
        if self._stage != stage:
            raise ProtocolError(
                f"{OP}: {_NEXT[stage]} came out of order; what comes next is {_NEXT[self._stage]}",
                phase=self._stage,
            )

    def _expect_enough(self, phase: str, left: Sequence[int]) -> None:
        p = self._protocol.parameters
        if len(left) >= p.enough:
            return
        missing = sorted(set(range(p.clients)) - set(left))
        raise ThresholdError(
            f"{OP}: {len(left)} ranks are left in phase {phase!r} and {p.enough} are needed; "
            f"missing are {missing}",
            missing=missing,
            needed=p.enough,
        )

    @contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        """Count what a phase takes; a phase that raises ends the round."""
        began, sent = time.perf_counter(), self._link.sent
        try:
            yield
        except BaseException:
            self.close()
            raise
        self._seconds[phase] += time.perf_counter() - began
        self._traffic["rank", phase] += self._link.sent - sent


def _expect(protocol: Any, round_: Any, key: Any, lost: Any, size: int) -> str:
    """A digest of the session's numbers; raises unless the arguments are right."""
    if not isinstance(protocol, LightSecAgg):
        kind = type(protocol).__name__
        raise DtypeError(f"{OP}: protocol is {kind}; it must be a LightSecAgg")
    p = protocol.parameters
    if p.signed or protocol.check is not None:
        raise ArgumentError(
            f"{OP}: protocol has server='malicious' or check_dealers=True; there is no server "
            "among ranks, who must all keep to the protocol"
        )
    if p.clients != size:
        raise ArgumentError(
            f"{OP}: protocol has {p.clients} clients and the group {size} ranks; they must be as "
            "many"
        )
    expect_int(OP, "round", round_, 0, 2**64)
    if key is not None:
        expect_key(OP, key)
    if lost is not None and lost not in protocol.phases:
        phases = ", ".join(protocol.phases)
        raise ArgumentError(f"{OP}: lost is {lost!r}; it must be None or one of {phases}")
    return p.digest().hex()

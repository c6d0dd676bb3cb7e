"""Secure aggregation: the server learns the sum of the clients' updates, and no single update.

A party is a state machine: ``client.start(update, weight)`` gives the first messages,
``handle(message, source)`` takes one and gives the answers, and ``server.close_phase()`` ends a
phase. Messages are frozen dataclasses with ``to_bytes`` and ``from_bytes``; the engine carries
them and vouches for ``source``. What is refused raises ProtocolError and changes nothing.

Names are resolved on first use, so that ``pyfed.secagg.messages`` and ``pyfed.secagg.channel``
import without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyfed.lazy import lazy as _lazy

_HOME = {
    "FileJournal": "pyfed.secagg.journal",
    "Identity": "pyfed.secagg.identity",
    "Journal": "pyfed.secagg.journal",
    "LightSecAgg": "pyfed.secagg.lightsecagg",
    "Message": "pyfed.secagg.wire",
    "RoundResult": "pyfed.secagg.result",
    "SecAggPlus": "pyfed.secagg.secaggplus",
    "SecEA": "pyfed.secagg.secea",
    "SwiftAgg": "pyfed.secagg.swiftagg",
    "compare": "pyfed.secagg.comparison",
    # The in-process engine stands above this package; only its name is offered here.
    "simulate": "pyfed.engines.simulation",
}

__all__ = [
    "FileJournal",
    "Identity",
    "Journal",
    "LightSecAgg",
    "Message",
    "RoundResult",
    "SecAggPlus",
    "SecEA",
    "SwiftAgg",
    "compare",
    "simulate",
]

if TYPE_CHECKING:
    from pyfed.engines.simulation import simulate
    from pyfed.secagg.comparison import compare
    from pyfed.secagg.identity import Identity
    from pyfed.secagg.journal import FileJournal, Journal
    from pyfed.secagg.lightsecagg import LightSecAgg
    from pyfed.secagg.result import RoundResult
    from pyfed.secagg.secaggplus import SecAggPlus
    from pyfed.secagg.secea import SecEA
    from pyfed.secagg.swiftagg import SwiftAgg
    from pyfed.secagg.wire import Message

__getattr__, __dir__ = _lazy(__name__, _HOME, "secagg", ("cryptography", "msgpack"))

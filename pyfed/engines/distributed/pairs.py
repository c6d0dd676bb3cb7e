"""Keys that each two ranks share, agreed on over the group itself."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from pyfed.engines.distributed.agreement import Step, agreed
from pyfed.engines.distributed.link import Link
from pyfed.errors import ProtocolError
from pyfed.keys import Key
from pyfed.secagg.channel import ChannelKey
from pyfed.secagg.secaggplus_secrets import mask_sign, pair_key
from pyfed.secagg.session import VERSION, canonical

_WORDS = 8  # of a public key
_FRESH = 4  # random words of each rank


def agreed_pairs(
    op: str, link: Link, root: Key, numbers: tuple[object, ...]
) -> tuple[list[Key], list[int]]:
    """A key with every other rank, by X25519, and the sign of its masks.

    key = HKDF(X25519 of the ranks' fresh keys, salt = session, info = lp("pairwise") ‖ u64 0 ‖ u32
    min ‖ u32 max), where the session hashes the numbers, all public keys, and 16 random bytes of
    every rank. Keys are thus fresh whenever they are agreed on, even where secrets come again.

    Args:
        op: what messages name.
        link: to the other ranks.
        root: this rank's secret.
        numbers: what all ranks agree on, plain numbers and strings.

    Returns:
        The keys of the other ranks, in order, and +1 or -1 for each: the smaller rank adds.

    Raises:
        ArgumentError: the numbers differ between ranks.
        ProtocolError: a rank's public key is bad.
    """
    secret = root.derive("channel")
    own = ChannelKey(secret)
    secret.wipe()
    mine = np.frombuffer(own.public + os.urandom(4 * _FRESH), dtype="<u4").tolist()
    _, told = agreed(op, link, lambda: Step(None, numbers, mine), told=_WORDS + _FRESH)
    publics = [np.array(row[:_WORDS], dtype="<u4").tobytes() for row in told]
    fresh = [np.array(row[_WORDS:], dtype="<u4").tobytes() for row in told]
    everything = canonical(("PairwiseMasks", VERSION, *numbers, publics, fresh))
    session = hashlib.sha256(b"pyfed/v1/session" + everything).digest()
    others = [rank for rank in range(link.size) if rank != link.rank]

    def agree() -> Step:
        if len(set(publics)) < len(publics):
            raise ProtocolError(f"{op}: two ranks have one public key; give each its own secret")
        pairs = [pair_key(own, publics[rank], session, 0, link.rank, rank) for rank in others]
        return Step(pairs, ("pairs",))

    pairs, _ = agreed(op, link, agree, error=ProtocolError)
    assert isinstance(pairs, list)
    return pairs, [mask_sign(link.rank, rank) for rank in others]

"""The secrets that SecAgg+ shares, and the keys of its masks."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import torch

from pyfed.codes import LagrangeCode
from pyfed.errors import DecodeError
from pyfed.keys import Key, hkdf_sha256, length_prefixed
from pyfed.secagg.channel import ChannelKey
from pyfed.secagg.secaggplus_messages import NAME, SECRET_WORDS

_BITS = 30


def secret_words(secret: Key) -> list[int]:
    """256 bits as 9 residues of 30 bits, the low ones first."""
    number = int.from_bytes(secret.reveal(), "little")
    return [number >> _BITS * i & (1 << _BITS) - 1 for i in range(SECRET_WORDS)]


def secret_key(words: list[int]) -> Key | None:
    """The secret that 9 residues stand for; None when they stand for none."""
    number = sum(word << _BITS * i for i, word in enumerate(words))
    if max(words) >> _BITS or number >> 256:
        return None
    return Key(number.to_bytes(32, "little"))


def pair_key(own: ChannelKey, peer: bytes, session: bytes, round_: int, one: int, two: int) -> Key:
    """The key of the mask that clients ``one`` and ``two`` share.

    HKDF(X25519 of the keys for masks, salt = session, info = lp("pairwise") ‖ u64 round ‖ u32 min
    ‖ u32 max).

    Raises:
        ProtocolError: the peer's key has a small order.
    """
    secret = own.agree(peer)
    numbers = struct.pack("<QII", round_, min(one, two), max(one, two))
    try:
        return Key(hkdf_sha256(secret.reveal(), session, length_prefixed(b"pairwise") + numbers))
    finally:
        secret.wipe()


def mask_sign(own: int, peer: int) -> int:
    """+1: the smaller number adds the mask of a pair; -1: the larger subtracts it."""
    return 1 if own < peer else -1


def recovered(
    code: LagrangeCode,
    shares: Mapping[int, tuple[list[int], torch.Tensor]],
    graph: Mapping[int, tuple[int, ...]],
    errors: int,
    wrong: set[int],
) -> dict[int, Key | DecodeError]:
    """The secrets of dealers, decoded together where shares came from the same rows.

    Args:
        code: shares secrets.
        shares: dealer → (the rows that came, all rows as int32 (neighbours, 9)).
        graph: dealer → the client that holds each row.
        errors: how many wrong shares of one secret are repaired.
        wrong: takes up the clients whose shares were wrong and are repaired.

    Returns:
        dealer → its secret, or why its shares give none.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for dealer, (given, _) in shares.items():
        groups.setdefault(tuple(sorted(given)), []).append(dealer)
    out: dict[int, Key | DecodeError] = {}
    for rows, dealers in groups.items():
        picked = [shares[dealer][1][list(rows)] for dealer in dealers]
        try:
            out |= _decoded_together(code, dealers, picked, rows)
        except DecodeError:  # a row has another holder for each dealer: take them one by one
            for dealer, one in zip(dealers, picked, strict=True):
                holders = [graph[dealer][row] for row in rows]
                out[dealer] = _decoded_alone(code, dealer, one, rows, holders, errors, wrong)
        except BaseException:
            forget(out)
            raise
        finally:
            for one in picked:
                one.zero_()
    return out


def forget(secrets: Mapping[int, Key | DecodeError]) -> None:
    """Overwrite recovered secrets."""
    for secret in secrets.values():
        if isinstance(secret, Key):
            secret.wipe()


def _decoded_together(
    code: LagrangeCode, dealers: list[int], picked: list[torch.Tensor], rows: tuple[int, ...]
) -> dict[int, Key | DecodeError]:
    """The secrets of dealers whose shares all agree; DecodeError when some do not."""
    side_by_side = torch.cat(picked, dim=1)  # (rows, 9 · dealers)
    try:
        words = code.decode(side_by_side, rows)
    finally:
        side_by_side.zero_()
    secrets = {
        dealer: secret_key(part.tolist())
        or DecodeError(f"{NAME}: the shares of client {dealer} give no secret of 256 bits")
        for dealer, part in zip(dealers, words.split(SECRET_WORDS), strict=True)
    }
    words.zero_()
    return secrets


def _decoded_alone(
    code: LagrangeCode,
    dealer: int,
    shares: torch.Tensor,
    rows: tuple[int, ...],
    holders: list[int],
    errors: int,
    wrong: set[int],
) -> Key | DecodeError:
    """A secret of which up to ``errors`` shares, int32 (rows, 9), are wrong."""
    try:
        words, bad = code.repair(shares, rows, correct=errors)
    except DecodeError as error:
        blamed = [holders[rows.index(row)] for row in error.rows]
        told = f"; if few are wrong, they are due to clients {blamed}" if blamed else ""
        text = f"{NAME}: the shares of client {dealer}'s secret contradict one another"
        more = f"; errors is {errors}, and so many are repaired"
        return DecodeError(text + told + more, rows=blamed)
    wrong.update(holders[rows.index(row)] for row in bad)
    secret = secret_key(words.tolist())
    words.zero_()
    return secret or DecodeError(
        f"{NAME}: the shares of client {dealer} give no secret of 256 bits"
    )

"""What the numbers of a SecEA session must satisfy."""

from __future__ import annotations

from pyfed.errors import ArgumentError
from pyfed.secagg.secea_messages import NAME, SecEAParameters

LARGEST = 2**31
"""Residues that one message may carry: 8 GiB."""


def expect_sizes(p: SecEAParameters) -> None:
    """Raise unless a client's boxes for all others fit into one message."""
    sizes = {
        "shares": p.clients * (p.columns + p.clients * p.reply),
        "queries": p.clients * p.wanted * p.entities,
    }
    for name, words in sizes.items():
        if words > LARGEST:
            raise ArgumentError(
                f"{NAME}: a client's {name} for all others would have {words} residues, with "
                f"entities = {p.entities}, wanted = {p.wanted}, width = {p.width}; at most 2^31 "
                "fit: use more blocks, or split the entities over several sessions"
            )


def expect_answers(
    clients: int, privacy: int, blocks: int, dropouts: int, errors: int, detect: int
) -> None:
    """Raise unless enough answers are left: N - D ≥ 2K + 2T - 1 + 2E + F."""
    left = clients - dropouts - 2 * errors - detect
    most = (left + 1) // 2 - privacy
    if blocks > most:
        remedy = f"use blocks ≤ {most}, or " if most >= 1 else "use "
        raise ArgumentError(
            f"{NAME}: blocks is {blocks}; it must be at most ⌊(clients - dropouts - 2·errors - "
            f"detect + 1)/2⌋ - privacy = ⌊({clients} - {dropouts} - 2·{errors} - {detect} + 1)/2⌋ "
            f"- {privacy} = {most}, because an asker needs 2·blocks + 2·privacy - 1 answers; "
            f"{remedy}less privacy, fewer dropouts or more clients"
        )

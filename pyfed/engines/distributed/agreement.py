"""Agreement before a collective: either every rank goes on, or every rank raises.

A rank that raised alone would leave the others waiting in a collective until it times out. So each
step first says whether it may be taken, and on what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pyfed.engines.distributed.link import Link
from pyfed.errors import ArgumentError, PyfedError

ROOM = 14
"""Integers that travel with an agreement; more take a transfer of their own."""


class Step(NamedTuple):
    """What a rank brings to an agreement.

    Args:
        value: for this rank's own use.
        facts: what must be equal on all ranks; of plain numbers and strings.
        told: integers below 2^63 that every rank is told, as many on each.
    """

    value: object
    facts: tuple[object, ...]
    told: Sequence[int] = ()


def agreed(
    op: str,
    link: Link,
    prepare: Callable[[], Step],
    told: int = 0,
    error: type[PyfedError] = ArgumentError,
) -> tuple[object, list[list[int]]]:
    """Take a step together.

    Args:
        op: what messages name.
        link: to the other ranks.
        prepare: checks this rank's arguments and does what may fail.
        told: how many integers ``prepare`` tells.
        error: raised where other ranks refused and this one did not.

    Returns:
        This rank's value, and what every rank told, by rank.

    Raises:
        Exception: whatever ``prepare`` raised here, after the other ranks know of it.
        PyfedError: of the type ``error``: another rank's ``prepare`` raised.
        ArgumentError: the facts differ between ranks.
    """
    refusal: Exception | None = None
    step = Step(None, ())
    try:
        step = prepare()
    except Exception as raised:
        refusal = raised
    numbers = [0] * told if refusal else list(step.told)
    # Of one size whatever is called: gloo breaks off where ranks give other sizes.
    fitting = numbers if told <= ROOM else []
    padding = [0] * (ROOM - len(fitting))
    rows = link.rows([int(refusal is not None), _digest(op, step.facts), *fitting, *padding])
    if refusal is not None:
        raise refusal
    refused = [rank for rank, row in enumerate(rows) if row[0]]
    if refused:
        raise error(f"{op}: ranks {refused} refused, so no rank went on; their own errors say why")
    others = [rank for rank, row in enumerate(rows) if row[1] != rows[link.rank][1]]
    if others:
        mine = ", ".join(str(fact) for fact in step.facts)
        raise ArgumentError(
            f"{op}: ranks {others} call something else, or with other numbers than rank "
            f"{link.rank}, which has ({mine}); all ranks must agree"
        )
    if told > ROOM:
        return step.value, link.rows(numbers)
    return step.value, [row[2 : 2 + told] for row in rows]


def _digest(op: str, facts: tuple[object, ...]) -> int:
    """63 bits that stand for the step."""
    digest = hashlib.sha256(repr((op, facts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def bits(numbers: Sequence[int], size: int) -> list[int]:
    """A set of numbers below ``size`` as integers of 32 bits."""
    words = [0] * (-(-size // 32))
    for number in numbers:
        words[number // 32] |= 1 << number % 32
    return words


def numbers_of(words: Sequence[int]) -> tuple[int, ...]:
    """The set that :func:`bits` made, sorted."""
    return tuple(
        32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1
    )

"""A coded vector decoded by many ranks, each of which decodes some columns of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.codes import LagrangeCode
from pyfed.engines.distributed.agreement import Step, agreed, bits, numbers_of
from pyfed.engines.distributed.link import Link
from pyfed.engines.distributed.slices import joined, sent_rows, slice_sizes
from pyfed.errors import DecodeError


def decoded(
    op: str,
    link: Link,
    code: LagrangeCode,
    row: torch.Tensor,
    columns: int,
    holders: Sequence[int],
    correct: int,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The vector behind the rows that some ranks hold, on every rank.

    The holders share the columns out, so that each sends and receives about one row and decodes a
    fraction of the vector.

    Args:
        op: what messages name.
        link: to the other ranks.
        code: of the shares; rank j holds share j.
        row: int32 (columns,), over ``WIDE`` (2, columns); not looked at where there is none.
        columns: of a row.
        holders: the ranks with a row, sorted, as many as the code needs.
        correct: how many wrong rows are repaired.

    Returns:
        int32 (blocks · columns,), and the share numbers of wrong rows, sorted.

    Raises:
        DecodeError: rows contradict one another beyond repair; on every rank.
    """
    sizes = slice_sizes(columns, holders, link.size)
    rows = sent_rows(link, row, code.field, sizes, holders)
    try:
        return decoded_columns(op, link, code, rows, sizes, holders, correct)
    finally:
        rows.zero_()


def decoded_columns(
    op: str,
    link: Link,
    code: LagrangeCode,
    rows: torch.Tensor,
    sizes: Sequence[int],
    survivors: Sequence[int],
    correct: int,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """The vector of which every rank has some columns of every row.

    Args:
        op: what messages name.
        link: to the other ranks.
        code: of the shares.
        rows: int32 (n, sizes[rank]), over ``WIDE`` behind an axis of 2 planes.
        sizes: columns on each rank, in order.
        survivors: the share number of each row.
        correct: how many wrong rows are repaired.

    Returns:
        int32 (blocks · Σ sizes,) on every rank, and the share numbers of wrong rows, sorted.

    Raises:
        DecodeError: rows contradict one another beyond repair; on every rank.
    """

    def decode() -> Step:
        part = rows.new_empty(*code.field.lead, 0)
        wrong: tuple[int, ...] = ()
        if rows.shape[-1]:
            part, wrong = code.repair(rows, list(survivors), correct=correct)
        return Step(part, ("decode",), bits(wrong, code.shares))

    part, told = agreed(op, link, decode, told=len(bits((), code.shares)), error=DecodeError)
    assert isinstance(part, torch.Tensor)
    wrong = tuple(sorted({number for words in told for number in numbers_of(words)}))
    if len(wrong) > correct:  # a row may be wrong in some columns alone
        raise DecodeError(
            f"{op}: the {len(survivors)} rows contradict one another; unless more are wrong, those "
            f"are {list(wrong)}, and {correct} are repaired",
            rows=wrong,
        )
    return joined(link, part, code.field, [code.blocks * size for size in sizes]), wrong

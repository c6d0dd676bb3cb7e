"""One long vector on many ranks: each encodes and decodes its own columns.

Shares and rounding are addressed by column, so the columns of all ranks, side by side, are the
shares that one process would make.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from pyfed.checks import expect_int, expect_key, expect_residues, expect_tensor
from pyfed.chunks import FLOATS, expect_fixed
from pyfed.codes import MOST_SHARES, LagrangeCode
from pyfed.engines.distributed.agreement import Step, agreed
from pyfed.engines.distributed.link import Link
from pyfed.engines.distributed.recovery import decoded_columns
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key


def encode_shard(
    code: LagrangeCode,
    values: torch.Tensor,
    key: Key,
    group: Any = None,
    *,
    fixed: FixedPoint | None = None,
    stream: int = 0,
) -> tuple[int, torch.Tensor]:
    """The shares of this rank's part of a vector that lies on all ranks, in order of rank.

    Every rank must call it. What the ranks return, side by side, is ``code.encode(vector, key,
    stream, fixed=fixed)``.

    Args:
        code: makes the shares; the same numbers on every rank.
        values: this rank's part: residues, int32 (elements,), over ``WIDE`` (2, elements); with
            ``fixed`` floats (elements,). Parts are whole columns, so multiples of ``code.blocks``,
            but for the last that is not empty; :func:`pyfed.streaming.shard` gives such.
        key: makes random rows and rounding; the same on every rank, so that one owner's vector
            has one key.
        group: a process group; None: the default one.
        fixed: how floats become residues of the code's field.
        stream: which of the key's streams.

    Returns:
        The number of this rank's first column, and int32 (shares, columns).

    Raises:
        DtypeError, ArgumentError: an argument is wrong, here or on another rank, or differs.

    Example:
        >>> import pyfed, torch, torch.distributed as dist
        >>> from pyfed.engines.distributed import encode_shard
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> code, key = pyfed.LagrangeCode(shares=3, blocks=2, privacy=1), pyfed.Key(bytes(32))
        >>> part = torch.arange(10, dtype=torch.int32)
        >>> column, shares = encode_shard(code, part, key)
        >>> column, torch.equal(shares, code.encode(part, key))
        (0, True)
        >>> dist.destroy_process_group()
    """
    op = "encode_shard"
    link = Link(op, group)

    def prepare() -> Step:
        _expect_code(op, code)
        expect_fixed(op, fixed, code.field)
        expect_key(op, key)
        if fixed is None:
            expect_residues(op, "values", values, code.field, 1)
        else:
            expect_tensor(op, "values", values, FLOATS, 1)
        known = hashlib.sha256(key.derive("agreed").reveal()).hexdigest()[:16]
        facts = (code, f"fixed {fixed}", f"stream {stream}", f"key of digest {known}")
        return Step(None, facts, [values.shape[-1]])

    _, told = agreed(op, link, prepare, told=1)
    sizes = [row[0] for row in told]

    def encode() -> Step:
        columns = _columns(op, sizes, code.blocks)
        first = sum(columns[: link.rank])
        return Step((first, code.encode(values, key, stream, first, fixed)), ("encode",))

    made: Any
    made, _ = agreed(op, link, encode)
    first, shares = made
    return first, shares


def decode_shards(
    code: LagrangeCode,
    rows: torch.Tensor,
    survivors: Sequence[int],
    length: int | None = None,
    group: Any = None,
    *,
    correct: int = 0,
) -> torch.Tensor:
    """The vector behind shares whose columns lie on all ranks, in order of rank, on every rank.

    Every rank decodes its columns and all gather the parts. The result is
    ``code.decode(all columns, survivors, length, correct)``.

    Args:
        code: of the shares.
        rows: this rank's columns, int32 (n, columns), n ≥ threshold; over ``WIDE`` (2, n,
            columns). A rank may have 0 columns.
        survivors: the share number of each row, in row order, the same on every rank.
        length: elements to give back; None: blocks · all columns.
        group: a process group; None: the default one.
        correct: how many wrong rows may be repaired, all columns together.

    Returns:
        int32 (length,), over ``WIDE`` (2, length), on the device of ``rows``.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, here or on another rank, or differs.
        ThresholdError: fewer rows than needed.
        DecodeError: rows contradict one another on some rank; every rank raises.
    """
    op = "decode_shards"
    link = Link(op, group)

    def prepare() -> Step:
        _expect_code(op, code)
        expect_int(op, "correct", correct, 0, MOST_SHARES)
        if length is not None:
            expect_int(op, "length", length, 0, 2**63)
        numbers = code.expect_rows(op, rows, survivors)
        facts = (code, f"survivors {numbers}", f"length {length}", f"correct {correct}")
        return Step(None, facts, [rows.shape[-1]])

    _, told = agreed(op, link, prepare, told=1)
    sizes = [row[0] for row in told]
    most = code.blocks * sum(sizes)
    if length is not None and length > most:
        raise ArgumentError(
            f"{op}: length is {length}; the {sum(sizes)} columns of all ranks hold {most} elements"
        )
    flat, _ = decoded_columns(op, link, code, rows, sizes, survivors, correct)
    return flat if length is None else flat[..., :length].contiguous()


def _expect_code(op: str, code: object) -> None:
    if not isinstance(code, LagrangeCode):
        raise DtypeError(f"{op}: code is {type(code).__name__}; it must be a pyfed.LagrangeCode")


def _columns(op: str, sizes: Sequence[int], blocks: int) -> list[int]:
    """Columns of each part; raises unless all but the last are whole ones."""
    filled = [rank for rank, size in enumerate(sizes) if size]
    for rank in filled[:-1]:
        if sizes[rank] % blocks:
            raise ArgumentError(
                f"{op}: the part of rank {rank} has {sizes[rank]} elements; parts before the last "
                f"must be whole columns of {blocks}: pyfed.streaming.shard gives such"
            )
    return [-(-size // blocks) for size in sizes]

"""Vectors of residues in slices: summed where they belong, and put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pyfed.chunks import shard
from pyfed.engines.distributed.link import Link
from pyfed.fields import Field
from pyfed.ops.field import field_sum


def slice_sizes(length: int, holders: Sequence[int], size: int) -> list[int]:
    """How many elements each of ``size`` ranks holds when ``holders`` share a vector out.

    Slices begin at multiples of 16, where a block of the generator does.
    """
    sizes = [0] * size
    for holder, part in zip(holders, shard(length, len(holders)), strict=True):
        sizes[holder] = len(part)
    return sizes


def sent_rows(
    link: Link, x: torch.Tensor, field: Field, sizes: Sequence[int], senders: Sequence[int]
) -> torch.Tensor:
    """Every rank's slice of the vectors of some ranks, one row for each of them.

    Args:
        link: to the other ranks.
        x: int32 (length,), over ``WIDE`` (2, length); not looked at on a rank that sends nothing.
        field: of the elements.
        sizes: elements of each rank's slice.
        senders: the ranks that have a vector; the others send pieces of size 0.

    Returns:
        int32 (senders, sizes[rank]), over ``WIDE`` behind an axis of 2 planes.
    """
    planes, mine = len(field.planes), sizes[link.rank]
    if sum(sizes) == 0 or not senders:
        return x.new_empty(*field.lead, len(senders), mine)
    out = [planes * size if link.rank in senders else 0 for size in sizes]
    into = [planes * mine if rank in senders else 0 for rank in range(link.size)]
    if link.rank not in senders:
        words = x.new_empty(0)
    elif planes == 1:
        words = x
    else:
        words = torch.cat([part.reshape(-1) for part in x.split(list(sizes), dim=-1)])
    rows = link.exchange(words, out, into).view(len(senders), *field.lead, mine)
    return rows.transpose(0, 1).contiguous() if field.lead else rows


def summed_slice(
    link: Link, x: torch.Tensor, field: Field, sizes: Sequence[int], senders: Sequence[int]
) -> torch.Tensor:
    """This rank's slice of the sum of some ranks' vectors: int32 (…, sizes[rank])."""
    return field_sum(sent_rows(link, x, field, sizes, senders), field)


def joined(link: Link, part: torch.Tensor, field: Field, sizes: Sequence[int]) -> torch.Tensor:
    """The whole vector of which every rank has a slice of ``sizes[rank]`` elements."""
    planes = len(field.planes)
    words = link.gather(part.reshape(-1), [planes * size for size in sizes])
    if planes == 1:
        return words
    parts = words.split([planes * size for size in sizes])
    return torch.cat([one.view(*field.lead, -1) for one in parts], dim=-1)

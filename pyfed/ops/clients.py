"""Rows that belong to clients: where each client's begin, and the stream of its dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pyfed.checks import BAD_PLACE, expect_int, expect_tensor, report
from pyfed.errors import ArgumentError, DtypeError

MOST_CLIENTS = 2**31


def expect_rate(op: str, name: str, rate: object) -> None:
    """Raise unless ``rate`` is a number in [0, 1)."""
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise DtypeError(f"{op}: {name} is {type(rate).__name__}; it must be a float")
    if not 0 <= rate < 1:
        raise ArgumentError(f"{op}: {name} is {rate}; it must be in [0, 1)")


def client_starts(
    op: str, client: torch.Tensor | None, clients: int, rows: int, like: torch.Tensor
) -> torch.Tensor:
    """Where each client's rows begin: int64 (clients + 1,) on the device of ``like``.

    What is wrong with the values of ``client`` is not looked at here, as that would wait for the
    device: then every start is -1, which :func:`check_starts` tells of.
    """
    expect_int(op, "clients", clients, 1, MOST_CLIENTS)
    if client is None:
        if rows % clients:
            raise ArgumentError(
                f"{op}: there are {rows} rows and {clients} clients; without client the rows must "
                "split equally"
            )
        return torch.arange(clients + 1, device=like.device) * (rows // clients)
    expect_tensor(op, "client", client, (torch.int64, torch.int32), 1)
    if client.shape[0] != rows:
        raise ArgumentError(f"{op}: client has {client.shape[0]} elements; there are {rows} rows")
    if client.device != like.device:
        raise ArgumentError(f"{op}: client is on {client.device}; the rows are on {like.device}")
    owner = client.to(torch.int64)
    bad = ((owner < 0) | (owner >= clients)).any() | (owner[1:] < owner[:-1]).any()
    edges = torch.arange(clients + 1, device=like.device)
    return torch.where(bad, -1, torch.searchsorted(owner, edges))


def client_streams(
    op: str, stream: int | torch.Tensor, clients: int, device: torch.device
) -> torch.Tensor:
    """The dropout stream of each client: int64 (clients,)."""
    if not isinstance(stream, torch.Tensor):
        expect_int(op, "stream", stream, 0, 2**32)
        return (torch.arange(clients, device=device) << 32) + stream
    expect_tensor(op, "stream", stream, torch.int64, 1)
    if stream.shape[0] != clients:
        raise ArgumentError(
            f"{op}: stream has {stream.shape[0]} elements; there are {clients} clients"
        )
    return stream


def check_starts(op: str, starts: torch.Tensor, rows: int) -> None:
    """Report unless the starts ascend from 0 to ``rows``."""
    bad = (starts[1:] < starts[:-1]).any() | (starts[0] != 0) | (starts[-1] != rows)
    report(op, bad, BAD_PLACE)


def client_of_rows(starts: torch.Tensor, rows: int) -> torch.Tensor:
    """The client of each row, int64 (rows,), also where some clients have none."""
    ends = starts[1:].contiguous()
    return torch.searchsorted(ends, torch.arange(rows, device=starts.device), right=True)


def describe_starts(op: str) -> Callable[[list[str], tuple[Any, ...]], str | None]:
    """What an op says of rows that do not belong to clients in order."""

    def describe(names: list[str], args: tuple[Any, ...]) -> str | None:
        starts = args[names.index("starts")]
        x = args[names.index("x")]
        rows = math.prod(x.shape[:-1])
        ascending = bool((starts[1:] >= starts[:-1]).all())
        if ascending and starts[0] == 0 and starts[-1] == rows:
            return None
        return (
            f"{op}: client holds numbers outside [0, {len(starts) - 1}) or not in ascending order; "
            f"each of the {rows} rows must name its client, one client after the other"
        )

    return describe

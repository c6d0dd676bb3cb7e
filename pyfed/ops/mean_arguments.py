"""What callers of masked_mean may give, checked and brought into the form that the op takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from pyfed.checks import expect_int, expect_one_device, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.counts import MOST_CLIENTS
from pyfed.ops.keepers import MOST_WEIGHT
from pyfed.ops.masks import bytes_of, mask_pack
from pyfed.ops.places import Indices, Rectangles
from pyfed.ops.selection_arguments import FLOATS

DENOMINATORS = {"keepers": 0, "all": 1, "one": 2}


def join(values: Any, masks: object, shape: object) -> torch.Tensor:
    """One tensor of what may be a list of one tensor for each client."""
    if isinstance(values, Sequence):
        for client, own in enumerate(values):
            expect_tensor("masked_mean", f"values[{client}]", own, FLOATS)
        if not values:
            raise ArgumentError("masked_mean: values is an empty list; give a tensor of no rows")
        dtypes = {own.dtype for own in values}
        if len(dtypes) > 1:
            raise DtypeError(
                f"masked_mean: values have dtypes {', '.join(sorted(map(str, dtypes)))}; they must "
                "have one"
            )
        expect_one_device("masked_mean", values)
        ragged = shape is not None or isinstance(masks, Rectangles | Indices)
        if ragged:
            return torch.cat([own.reshape(-1) for own in values])
        shapes = {tuple(own.shape) for own in values}
        if len(shapes) > 1:
            raise ArgumentError(
                f"masked_mean: values have shapes {sorted(shapes)}; give Rectangles, or values of "
                "one shape"
            )
        return torch.stack(list(values))
    expect_tensor("masked_mean", "values", values, FLOATS)
    joined: torch.Tensor = values
    if joined.dim() == 0:
        raise ArgumentError("masked_mean: values has no dimension; its first counts the clients")
    return joined


def pack(masks: torch.Tensor, clients: int | None, dims: tuple[int, ...]) -> torch.Tensor:
    """Masks as bits (clients, bytes); checked against the shape of one client's values."""
    expect_tensor("masked_mean", "masks", masks, (torch.bool, torch.uint8))
    length = math.prod(dims)
    found = masks.shape[0] if clients is None and masks.dim() else clients
    wanted = (found, *dims) if masks.dtype == torch.bool else (found, bytes_of(length))
    if masks.shape != wanted:
        raise ArgumentError(
            f"masked_mean: masks has shape {tuple(masks.shape)} and dtype {masks.dtype}; it must "
            f"be bool {(found, *dims)} or packed uint8 {(found, bytes_of(length))}"
        )
    return mask_pack(masks.reshape(masks.shape[0], length)) if masks.dtype == torch.bool else masks


def expect_sizes(values: Any, masks: Rectangles | Indices) -> None:
    """Raise where a list of tensors does not hold, for each client, what its mask says it holds."""
    if isinstance(values, torch.Tensor):
        return
    clients = len(masks.boxes if isinstance(masks, Rectangles) else masks.indices)
    _expect_number(values, clients)
    for client, own in enumerate(values):
        box = isinstance(masks, Rectangles)
        whole = masks.extents(client) if box else (masks.counts[client],)  # type: ignore[union-attr]
        if own.shape not in (whole, (math.prod(whole),)):
            raise ArgumentError(
                f"masked_mean: values[{client}] has shape {tuple(own.shape)}; its mask describes "
                f"{whole}"
            )


def packed_starts(values: Any, clients: int, device: torch.device) -> torch.Tensor | None:
    """Where each client's values begin, int64 (clients,), when they came one by one; else None.

    The op compares that with the masks, since only it looks at values.
    """
    if isinstance(values, torch.Tensor):
        return None
    _expect_number(values, clients)
    first = [0, *itertools.accumulate(own.numel() for own in values)]
    return torch.tensor(first[:-1], dtype=torch.int64).to(device)


def _expect_number(values: Sequence[torch.Tensor], clients: int) -> None:
    if len(values) != clients:
        raise ArgumentError(
            f"masked_mean: values are {len(values)} tensors; masks describe {clients} clients"
        )


def rule(denominator: str, min_votes: int, clients: int) -> tuple[int, int]:
    """The numbers of the denominator and of the least votes."""
    if denominator not in DENOMINATORS:
        choices = ", ".join(DENOMINATORS)
        raise ArgumentError(
            f"masked_mean: denominator is {denominator!r}; it must be one of {choices}"
        )
    expect_int("masked_mean", "min_votes", min_votes, 1, MOST_CLIENTS + 1)
    if clients > MOST_CLIENTS:
        raise ArgumentError(
            f"masked_mean: values come from {clients} clients; it must be at most {MOST_CLIENTS}"
        )
    return DENOMINATORS[denominator], min_votes


def weights_tensor(weights: Any, clients: int, device: torch.device) -> torch.Tensor | None:
    """Weights as an integer tensor (clients,); their values are the op's to check."""
    if weights is None:
        return None
    if not isinstance(weights, torch.Tensor):
        if not isinstance(weights, Sequence):
            kind = type(weights).__name__
            raise DtypeError(
                f"masked_mean: weights is {kind}; it must be a tensor or a list of int"
            )
        for client, weight in enumerate(weights):
            expect_int("masked_mean", f"weights[{client}]", weight, 0, MOST_WEIGHT + 1)
        weights = torch.tensor(weights, dtype=torch.int64, device=device)
    expect_tensor("masked_mean", "weights", weights, (torch.int32, torch.int64), 1)
    if weights.shape[0] != clients:
        raise ArgumentError(
            f"masked_mean: weights has {weights.shape[0]} elements; there are {clients} clients"
        )
    found: torch.Tensor = weights
    return found


def server_tensor(
    empty: str, server: torch.Tensor | None, values: torch.Tensor, dims: tuple[int, ...]
) -> torch.Tensor | None:
    """What elements get that no mean is made of; None: zeros."""
    if empty not in ("zero", "keep"):
        raise ArgumentError(f"masked_mean: empty is {empty!r}; it must be 'zero' or 'keep'")
    if empty == "zero":
        if server is not None:
            raise ArgumentError("masked_mean: server is given; it is used with empty='keep' only")
        return None
    if server is None:
        raise ArgumentError("masked_mean: server is None; empty='keep' takes its values from there")
    expect_tensor("masked_mean", "server", server, values.dtype)
    if server.shape != dims:
        raise ArgumentError(
            f"masked_mean: server has shape {tuple(server.shape)}; it must be {dims}"
        )
    return server.detach()

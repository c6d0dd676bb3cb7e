"""Which elements of a tensor each client holds, and its values there, in any of four forms.

Dense: values (clients, length), with bits of the elements that count, or all. Packed: the kept
values alone, client after client, with the bits. Rectangles and indices: values (total,), client
after client, in ascending order of place.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from pyfed.checks import BAD_COUNT, BAD_PADDING, BAD_PLACE, report
from pyfed.ops.masks import bad_padding, mask_popcount_op, unpacked

DENSE, PACKED, RECTANGLES, INDICES = range(4)
MOST_WEIGHT = 2**24 - 1
"""Integers up to this one are exact in float32."""


def clients_of(
    values: torch.Tensor, masks: torch.Tensor | None, starts: torch.Tensor | None, form: int
) -> int:
    """How many clients the arguments of the op describe."""
    if form == DENSE:
        return values.shape[0]
    if form == PACKED:
        assert masks is not None
        return masks.shape[0]
    assert starts is not None
    return starts.shape[0] - (form == INDICES)


def client_values(
    client: int,
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    length: int,
    columns: int,
    form: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which elements a client holds, bool (length,), and its values, float32 (length,)."""
    if form == DENSE:
        held = torch.ones(length, dtype=torch.bool, device=values.device)
        if masks is not None:
            held = unpacked(masks[client], length)
        return held, values[client].reshape(-1).to(torch.float32)
    held = torch.zeros(length, dtype=torch.bool, device=values.device)
    if form == PACKED:
        assert masks is not None
        held = unpacked(masks[client], length)
        first = int(unpacked(masks[:client], length).sum())
    elif form == RECTANGLES:
        assert places is not None and starts is not None
        r0, r1, c0, c1 = places[client].tolist()
        held.view(-1, max(columns, 1))[r0:r1, c0:c1] = True
        first = int(starts[client])
    else:
        assert places is not None and starts is not None
        first = int(starts[client])
        own = places[first : int(starts[client + 1])]
        held[own[(own >= 0) & (own < length)]] = True
    if values.numel() == 0:
        return held, torch.zeros(length, dtype=torch.float32, device=values.device)
    # Where masks and values do not fit, which is reported later on CUDA, this stays in bounds.
    place = (first + torch.cumsum(held, 0) - 1).clamp(0, values.numel() - 1)
    return held, values[place].to(torch.float32)


def checked_weights(weights: torch.Tensor | None) -> torch.Tensor | None:
    """Weights as int32, after a report of those below 0, above 2^24 - 1, or with a large sum."""
    if weights is None:
        return None
    report("masked_mean", (weights < 0) | (weights > MOST_WEIGHT), BAD_COUNT)
    report("masked_mean", weights.sum(dtype=torch.int64) >= 2**31, BAD_COUNT)
    return weights.to(torch.int32)


def check_places(
    values: torch.Tensor,
    masks: torch.Tensor | None,
    places: torch.Tensor | None,
    starts: torch.Tensor | None,
    length: int,
    form: int,
) -> None:
    """Report set padding bits, and indices that are not ascending and in range."""
    if masks is not None:
        report("masked_mean", bad_padding(masks, length), BAD_PADDING)
    if form == PACKED:
        assert masks is not None
        held = mask_popcount_op.torch_op(masks, length)
        report("masked_mean", held.sum() != values.numel(), BAD_PLACE)
        if starts is not None:
            report("masked_mean", torch.cumsum(held, 0) - held != starts, BAD_PLACE)
    if form == INDICES:
        assert places is not None and starts is not None
        report("masked_mean", (places < 0) | (places >= length), BAD_PLACE)
        first = torch.zeros(places.numel() + 1, dtype=torch.bool, device=places.device)
        first[starts] = True  # where another client's list begins
        falls = (places[1:] <= places[:-1]) & ~first[1 : max(places.numel(), 1)]
        report("masked_mean", falls, BAD_PLACE)


def describe_mean(names: list[str], args: tuple[Any, ...]) -> str | None:
    """Tells what is wrong with the arguments of masked_mean; None: nothing that it sees."""
    values, masks, places, starts, weights, _, shape, columns, form, *_ = args
    length = math.prod(shape)
    if weights is not None:
        bad = (weights < 0) | (weights > MOST_WEIGHT)
        if bad.any() or weights.sum(dtype=torch.int64) >= 2**31:
            return (
                f"masked_mean: weights are {weights.tolist()[:8]} …; each must be from 0 to "
                f"{MOST_WEIGHT}, and their sum below 2^31"
            )
    if masks is not None:
        bad = bad_padding(masks, length)
        if bad.any():
            row = int(torch.nonzero(bad)[0])
            return (
                f"masked_mean: the mask of client {row} has a bit set behind its {length} "
                "elements; padding bits must be 0"
            )
        if form == PACKED:
            kept = unpacked(masks, length).sum(1).tolist()
            if sum(kept) != values.numel():
                total = values.numel()
                return f"masked_mean: values has {total} elements; the masks keep {sum(kept)}"
            bounds = [*([] if starts is None else starts.tolist()), values.numel()]
            for client, own in enumerate(b - a for a, b in itertools.pairwise(bounds)):
                if own != kept[client]:
                    return (
                        f"masked_mean: values[{client}] has {own} elements; its mask keeps "
                        f"{kept[client]}"
                    )
    if form == INDICES:
        bounds = starts.tolist()
        for client, (begin, end) in enumerate(itertools.pairwise(bounds)):
            own = places[begin:end]
            if ((own < 0) | (own >= length)).any() or (own[1:] <= own[:-1]).any():
                return (
                    f"masked_mean: the indices of client {client} must be strictly ascending and "
                    f"in [0, {length})"
                )
    for client in range(clients_of(values, masks, starts, form)):
        held, own = client_values(client, values, masks, places, starts, length, columns, form)
        bad = held & ~torch.isfinite(own)
        if bad.any():
            first = int(torch.nonzero(bad)[0])
            return (
                f"masked_mean: in values {int(bad.sum())} elements of client {client} that its "
                f"mask keeps are NaN or infinite; the first is {own[first].item()} at flat index "
                f"{first}"
            )
    return f"masked_mean: all values are finite, but a mean is too large for {values.dtype}"

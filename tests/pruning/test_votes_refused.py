"""What MaskVotes refuses has an error that names it, and changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import mask_pack
from pyfed.pruning.votes import MaskVotes

SHAPES = {"q": (3, 7), "k": (16,), "down": (4, 11)}


def state(votes: MaskVotes) -> list[Any]:
    """Everything that can be seen of the votes, and the buffers behind it."""
    kept = [votes.names, votes.state_bytes]
    for name, layer in votes._layers.items():
        kept += [name, layer.planes.tolist(), layer.filled, sorted(layer.clients), layer.released]
        kept += [layer.waiting[: layer.filled].tolist()]
    return kept


QUERY = torch.rand(9, 21, generator=torch.Generator().manual_seed(3)) < 0.5
GOOD = {"q": torch.zeros(3, dtype=torch.uint8), "k": torch.zeros(16).bool()}
PADDED = torch.tensor([0, 0, 32], dtype=torch.uint8)
BAD_ADDS: list[tuple[Any, Any, type[Exception], str]] = [
    (3, GOOD, ArgumentError, "client 3 has voted on 'q' before"),
    (-1, GOOD, ArgumentError, r"client is -1"),
    (True, GOOD, DtypeError, "client is bool"),
    ("9", GOOD, DtypeError, "client is str"),
    (9, [GOOD], DtypeError, "masks is list; it must map"),
    (9, {}, ArgumentError, "masks is empty; it must have one layer at least"),
    (9, GOOD | {"x": GOOD["k"]}, ArgumentError, "there is no layer 'x'"),
    (9, GOOD | {7: GOOD["k"]}, ArgumentError, "there is no layer 7"),
    (9, GOOD | {"down": torch.zeros(44)}, DtypeError, "float32"),
    (9, GOOD | {"down": np.zeros(6)}, DtypeError, "is ndarray"),
    (9, GOOD | {"down": torch.zeros(11, 4).bool()}, ArgumentError, r"must be \(4, 11\) or flat"),
    (9, GOOD | {"down": torch.zeros(43).bool()}, ArgumentError, r"must be \(4, 11\) or flat"),
    (9, GOOD | {"down": torch.zeros(5).byte()}, ArgumentError, "uint8 means packed"),
    (9, GOOD | {"down": torch.zeros(4, 11).byte()}, ArgumentError, r"for 44 elements \(6,\); give"),
    (9, GOOD | {"down": torch.zeros(1, 6).byte()}, ArgumentError, r"uint8 of shape \(1, 6\)"),
    (9, {"k": GOOD["k"], "q": PADDED}, ArgumentError, r"masks\['q'\] has a bit set behind its 21"),
]


def with_some_votes() -> MaskVotes:
    """Votes of clients 0 to 8, of which the last one waits."""
    votes = MaskVotes(SHAPES)
    for client in range(9):
        row = {"q": QUERY[client], "k": torch.ones(16).bool()}
        votes.add(client, row if client else row | {"down": torch.ones(4, 11).bool()})
    return votes


@pytest.mark.parametrize(("client", "masks", "error", "text"), BAD_ADDS)
def test_a_client_that_is_refused_changes_nothing(
    client: Any, masks: Any, error: type[Exception], text: str
) -> None:
    votes = with_some_votes()
    before = state(votes)
    with pytest.raises(error, match=text):
        votes.add(client, masks)
    assert state(votes) == before
    votes.add(9, GOOD)
    assert votes.counts("q").tolist() == QUERY.sum(0).tolist()


TWO = torch.zeros(2, 3, dtype=torch.uint8)
BAD_BATCHES: list[tuple[Any, Any, type[Exception], str]] = [
    ([9, 3], {"q": TWO}, ArgumentError, "client 3 has voted on 'q' before"),
    ([9, 9], {"q": TWO}, ArgumentError, "names a client twice"),
    ([9, -1], {"q": TWO}, ArgumentError, "client is -1"),
    (9, {"q": TWO}, DtypeError, "clients is int"),
    ("99", {"q": TWO}, DtypeError, "clients is str"),
    ([9, 10, 11], {"q": TWO}, ArgumentError, r"shape \(2, 3\); .* \(3, 3\)"),
    ([9, 10], {"q": TWO, "k": TWO}, ArgumentError, r"for 16 elements \(2, 2\)"),
    ([9, 10], {"q": TWO, "down": TWO.bool()}, ArgumentError, r"must be \(2, 4, 11\)"),
    ([9, 10], {"q": TWO, "k": torch.zeros(3, 16).bool()}, ArgumentError, r"it must be \(2, 16\)"),
    ([9, 10], {"q": TWO.int()}, DtypeError, "torch.int32; it must be torch.bool or torch.uint8"),
    ([9, 10], {}, ArgumentError, "masks is empty"),
    ([9, 10], {"q": TWO[0]}, ArgumentError, r"uint8 of shape \(3,\)"),
    ([9, 10], {"q": torch.stack([PADDED, TWO[0]])}, ArgumentError, "behind its 21 elements"),
]


@pytest.mark.parametrize(("clients", "masks", "error", "text"), BAD_BATCHES)
def test_a_batch_that_is_refused_changes_nothing(
    clients: Any, masks: Any, error: type[Exception], text: str
) -> None:
    votes = with_some_votes()
    before = state(votes)
    with pytest.raises(error, match=text):
        votes.add_batch(clients, masks)
    assert state(votes) == before
    votes.add_batch([9, 10], {"q": TWO})
    assert votes.counts("q").tolist() == QUERY.sum(0).tolist()


@pytest.mark.parametrize(
    ("shapes", "error", "text"),
    [
        ({}, ArgumentError, "shapes is empty"),
        ([("q", (3, 7))], DtypeError, "shapes is list"),
        ({"q": 21}, DtypeError, "maps 'q' to int"),
        ({"q": "21"}, DtypeError, "maps 'q' to str"),
        ({1: (3, 7)}, DtypeError, "has a key of int"),
        ({"q": (3, 7.0)}, DtypeError, "a size of 'q' is float"),
        ({"q": (3, -7)}, ArgumentError, "a size of 'q' is -7"),
    ],
)
def test_shapes_that_are_none_are_refused(shapes: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        MaskVotes(shapes)
    MaskVotes({"q": torch.Size([3, 7]), "s": ()})


def test_messages_name_types_and_print_no_tensors() -> None:
    with pytest.raises(DtypeError) as caught:
        MaskVotes({"q": torch.rand(50, 50)})  # type: ignore[dict-item] # as a state dict has them
    assert str(caught.value) == (
        "MaskVotes: shapes maps 'q' to Tensor; it must map names to lists of sizes, such as "
        "tuple(weight.shape)"
    )


def test_votes_are_not_counted_on_the_meta_device() -> None:
    with pytest.raises(ArgumentError, match="device is 'meta'"):
        MaskVotes(SHAPES, "meta")


def test_batches_of_bool_masks_are_counted_as_packed_ones() -> None:
    masks = {"q": torch.rand(5, 3, 7) < 0.5, "k": torch.rand(5, 16) < 0.5}
    votes, others = MaskVotes(SHAPES), MaskVotes(SHAPES)
    votes.add_batch(range(5), masks)
    others.add_batch(range(5), {name: mask_pack(m.flatten(1)) for name, m in masks.items()})
    votes.add_batch([5], {"q": masks["q"][:1].flatten(1)})
    others.add(5, {"q": masks["q"][0]})
    assert votes.counts("k").tolist() == masks["k"].sum(0).tolist()
    wanted = masks["q"].flatten(1).sum(0) + masks["q"][0].flatten()
    assert votes.counts("q").tolist() == others.counts("q").tolist() == wanted.tolist()


def test_a_batch_with_a_padding_bit_is_refused_and_changes_nothing() -> None:
    votes = MaskVotes(SHAPES)
    rows = torch.zeros(2, 3, dtype=torch.uint8)
    rows[1] = PADDED
    before = state(votes)
    with pytest.raises(ArgumentError, match="'q'"):
        votes.add_batch([4, 5], {"q": rows})
    assert state(votes) == before

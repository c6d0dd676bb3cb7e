"""Votes in lanes of a residue: exact counts up to the last client, and sums that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyfed import MERSENNE31, SOLINAS31, Field
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.lanes import VoteLanes
from pyfed.ops import mask_pack


def votes_of(counts: np.ndarray[Any, Any], lanes: VoteLanes) -> torch.Tensor:
    """The residues that counts must be summed up in, by Python integers."""
    length = lanes.lanes
    rows = [counts[at : at + length].tolist() for at in range(0, len(counts), length)]
    words = [sum(c * (lanes.clients + 1) ** j for j, c in enumerate(row)) for row in rows]
    assert all(0 <= word < lanes.field.modulus for word in words)
    return torch.tensor(words, dtype=torch.int32)


STEPS = [
    *[(1, 30), (3, 15), (72, 5), (73, 4), (214, 4), (215, 3)],
    *[(1289, 3), (1290, 2), (46_338, 2), (46_339, 1), (65_535, 1)],
]


@pytest.mark.parametrize(("clients", "lanes"), STEPS)
def test_the_number_of_lanes_steps_where_the_radix_outgrows_the_prime(
    clients: int, lanes: int
) -> None:
    assert VoteLanes(clients).lanes == lanes
    p = SOLINAS31.modulus
    assert (clients + 1) ** lanes <= p < (clients + 1) ** (lanes + 1)


def test_lanes_are_as_many_as_any_prime_holds() -> None:
    tiny = Field("tiny", 101)
    for clients in range(1, 101):
        lanes = VoteLanes(clients, tiny).lanes
        assert (clients + 1) ** lanes <= 101 < (clients + 1) ** (lanes + 1)
    with pytest.raises(ArgumentError, match=r"clients is 101; it must be in \[1, 101\)"):
        VoteLanes(101, tiny)


@pytest.mark.parametrize("clients", [1, 3, 72, 214, 255, 256, 1289, 46_338, 65_535])
@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31])
def test_every_lane_full_is_the_largest_sum_and_comes_back(clients: int, field: Field) -> None:
    lanes = VoteLanes(clients, field)
    for length in (lanes.lanes - 1, lanes.lanes, 3 * lanes.lanes + 1):
        ones = lanes.encode(torch.ones(length, dtype=torch.bool))
        total = [clients * word % field.modulus for word in ones.tolist()]
        assert total == [clients * word for word in ones.tolist()]  # nothing wrapped
        counts = lanes.decode(torch.tensor(total, dtype=torch.int32), length)
        assert counts.dtype == (torch.uint8 if clients <= 255 else torch.int32)
        assert counts.tolist() == [clients] * length


@pytest.mark.parametrize("clients", [3, 5, 73, 200, 1000, 5000, 50_000])
def test_any_counts_come_back(clients: int) -> None:
    lanes = VoteLanes(clients)
    rng = np.random.default_rng(clients)
    for length in (0, 1, 2, 63, 64, 65, 1001):
        counts = rng.integers(0, clients + 1, length)
        assert lanes.decode(votes_of(counts, lanes), length).tolist() == counts.tolist()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65, 513])
def test_masks_are_encoded_as_written_whether_packed_or_not(length: int) -> None:
    lanes = VoteLanes(100)
    mask = torch.rand(length) < 0.5
    wanted = votes_of(mask.numpy().astype(int), lanes)
    assert torch.equal(lanes.encode(mask), wanted)
    assert torch.equal(lanes.encode(mask_pack(mask), length), wanted)
    assert lanes.residues(length) == len(wanted)


def residues(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


BAD_SUMS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"residue_sum": residues(3 + 4 * 101)}, DecodeError, "lane 1 of residue 0 is 4 in a sum over"),
    ({"residue_sum": residues(4 * 101**3)}, DecodeError, "lane 3 of residue 0 is 4"),
    ({"residue_sum": residues(101**4)}, DecodeError, "lane 3 of residue 0 is 101"),
    ({"residue_sum": residues(0, 101), "length": 5}, DecodeError, "lane 1 of residue 1 is 1"),
    ({"residue_sum": residues(0, 0)}, ArgumentError, "2 residues; 4 votes in 4 lanes take 1"),
    ({"residue_sum": residues(-1)}, ArgumentError, "a residue lies outside"),
    ({"residue_sum": residues(SOLINAS31.modulus)}, ArgumentError, "a residue lies outside"),
    ({"residue_sum": residues(0).long()}, DtypeError, "int64"),
    ({"residue_sum": residues(0)[None]}, ArgumentError, "2 dimensions"),
    ({"included": 101}, ArgumentError, "included is 101"),
    ({"included": -1}, ArgumentError, "included is -1"),
    ({"length": -4}, ArgumentError, "length is -4"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_SUMS)
def test_sums_that_no_honest_clients_give_are_refused(
    change: dict[str, Any], error: type[Exception], text: str
) -> None:
    good = {"residue_sum": residues(3 * 101 + 3), "length": 4, "included": 3}
    lanes = VoteLanes(100)
    assert lanes.decode(**good).tolist() == [3, 3, 0, 0]  # type: ignore[arg-type]
    with pytest.raises(error, match=text):
        lanes.decode(**(good | change))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: VoteLanes(0), ArgumentError, "clients is 0"),
        (lambda: VoteLanes(65_536), ArgumentError, "clients is 65536"),
        (lambda: VoteLanes(2.0), DtypeError, "clients is float"),  # type: ignore[arg-type]
        (lambda: VoteLanes(2, 7), DtypeError, "field is int"),  # type: ignore[arg-type]
        (lambda: VoteLanes(2).encode(torch.ones(3)), DtypeError, "must be torch.bool"),
        (
            lambda: VoteLanes(2).encode(residues(7).byte()),
            ArgumentError,
            "length is None; a packed",
        ),
        (lambda: VoteLanes(2).encode(residues(7)), DtypeError, "must be torch.bool"),
        (lambda: VoteLanes(2).encode(residues(7).byte(), 9), ArgumentError, "must be 2 bytes"),
        (lambda: VoteLanes(2).encode(residues(7).byte(), 2), ArgumentError, "behind its 2"),
        (lambda: VoteLanes(2).encode(torch.ones(3).bool(), 4), ArgumentError, "3 elements"),
        (lambda: VoteLanes(2).check_weight(0), ArgumentError, "weight is 0; it must be 1"),
        (lambda: VoteLanes(2).check_weight(2), ArgumentError, "weight is 2; it must be 1"),
        (lambda: VoteLanes(2).check_weight(True), DtypeError, "bool"),
    ],
)
def test_wrong_arguments_are_named(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()

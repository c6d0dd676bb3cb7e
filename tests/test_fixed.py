"""FixedPoint's proof that sums cannot wrap, and flatten's way there and back."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from pyfed import MERSENNE31, SOLINAS31, Field, FixedPoint, Key, flatten
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import field_sum

KEY = Key(bytes(range(32)))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.floats(2.0**-60, 2.0**60, width=32), st.integers(2, 30))
def test_the_scale_is_the_largest_power_of_two_that_the_bits_hold(clip: float, bits: int) -> None:
    fixed = FixedPoint(clip=clip, bits=bits, clients=1, field=MERSENNE31)
    exact = Fraction(2) ** (bits - 1) / Fraction(clip)
    assert Fraction(fixed.scale) <= exact < 2 * Fraction(fixed.scale)
    assert fixed.largest == math.ceil(Fraction(clip) * Fraction(fixed.scale)) <= 2 ** (bits - 1)


def test_sixteen_bits_serve_32766_clients_and_no_more() -> None:
    FixedPoint(clip=1.0, bits=16, clients=32766)
    with pytest.raises(ArgumentError) as caught:
        FixedPoint(clip=1.0, bits=16, clients=32767)
    numbers = "32767 · 1 · 32768 = 1073709056 exceeds (p - 1) / 2 = 1073676288 of SOLINAS31"
    assert numbers in str(caught.value)
    assert "use bits ≤ 15, or fewer clients, or a smaller max_weight" in str(caught.value)
    FixedPoint(clip=1.0, bits=15, clients=32767)


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, Field("tiny", 8191)])
@pytest.mark.parametrize(("clients", "weight"), [(1, 1), (100, 1), (7, 13), (1000, 9)])
def test_the_remedy_in_the_message_works_and_is_the_largest(
    clients: int, weight: int, field: Field
) -> None:
    half = (field.modulus - 1) // 2
    for bits in range(2, 31):
        how = {"clip": 1.0, "clients": clients, "max_weight": weight, "field": field}
        fits = clients * weight * 2 ** (bits - 1) <= half and 2 ** (bits - 1) <= 2**30 - 2**20
        if fits:
            FixedPoint(bits=bits, **how)
            continue
        with pytest.raises(ArgumentError, match="use") as caught:
            FixedPoint(bits=bits, **how)
        if "use bits ≤ " in str(caught.value):
            remedy = int(str(caught.value).split("use bits ≤ ")[1].split(",")[0])
            assert remedy < bits
            if remedy >= 2:
                FixedPoint(bits=remedy, **how)


def test_the_largest_sum_keeps_its_sign() -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=1638, max_weight=20)
    for value in (1.0, -1.0, 5.0):
        one = fixed.encode(torch.tensor([value]), KEY, weight=20)
        total = field_sum(one.expand(1638, 1), SOLINAS31)
        assert fixed.integers(total).tolist() == [math.copysign(1638 * 20 * 32768, value)]
        mean = fixed.decode(total, total_weight=1638 * 20)
        assert mean.tolist() == [math.copysign(1.0, value)]


def test_weighted_sums_are_the_exact_integer_sums() -> None:
    fixed = FixedPoint(clip=2.0, bits=12, clients=5, max_weight=50)
    updates, weights = torch.randn(5, 101), [0, 1, 50, 7, 13]
    encoded = [
        fixed.encode(u, KEY.derive("round", i), weight=w, stream=i, start=9)
        for i, (u, w) in enumerate(zip(updates, weights, strict=True))
    ]
    total = field_sum(torch.stack(encoded), SOLINAS31)
    wanted = [0] * 101
    for i, (u, w) in enumerate(zip(updates, weights, strict=True)):
        key = KEY.derive("round", i).reveal()
        steps = oracles.quantize(u.tolist(), fixed.scale, 2.0, SOLINAS31.modulus, key, i, 9)
        wanted = [
            t + w * oracles.centred(s, SOLINAS31.modulus)
            for t, s in zip(wanted, steps, strict=True)
        ]
    assert fixed.integers(total).dtype == torch.int64
    assert fixed.integers(total).tolist() == wanted
    mean = [oracles.float32(oracles.float32(t / fixed.scale) / 71) for t in wanted]
    assert fixed.decode(total, total_weight=71).tolist() == mean


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"clip": 0.0}, ArgumentError, "clip is 0.0; it must be positive"),
        ({"clip": -1.0}, ArgumentError, "clip is -1.0"),
        ({"clip": float("nan")}, ArgumentError, "clip is nan"),
        ({"clip": float("inf")}, ArgumentError, "clip is inf"),
        ({"clip": "1"}, DtypeError, "clip is str"),
        ({"clip": 2.0**-120}, ArgumentError, r"from 2\^-100 to 2\^100"),
        ({"bits": 1}, ArgumentError, "bits is 1; it must be in"),
        ({"bits": 32}, ArgumentError, "bits is 32"),
        ({"bits": 16.0}, DtypeError, "bits is float"),
        ({"bits": 31, "clients": 1}, ArgumentError, "bits is 31.*use fewer bits"),
        ({"clients": 0}, ArgumentError, "clients is 0"),
        ({"max_weight": 0}, ArgumentError, "max_weight is 0"),
        ({"max_weight": 1.5}, DtypeError, "max_weight is float"),
        ({"field": 7}, DtypeError, "field is int"),
    ],
)
def test_impossible_fixed_points_are_refused(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        FixedPoint(**arguments)


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (-1, ArgumentError, "weight is -1; it must be from 0 to max_weight = 3"),
        (4, ArgumentError, "weight is 4"),
        (1.5, DtypeError, r"weight is 1.5 \(float\); it must be an int"),
        (2.0, DtypeError, r"weight is 2.0 \(float\)"),
        (True, DtypeError, r"weight is True \(bool\)"),
    ],
)
def test_bad_weights_are_refused(weight: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        FixedPoint(max_weight=3).encode(torch.ones(2), KEY, weight=weight)


@pytest.mark.parametrize("total", [0, -1, 1.0])
def test_bad_total_weights_are_refused(total: object) -> None:
    with pytest.raises((ArgumentError, DtypeError), match="total_weight is"):
        FixedPoint().decode(torch.ones(2, dtype=torch.int32), total_weight=total)


def test_values_that_are_not_finite_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            FixedPoint().encode(torch.tensor([0.0, value]), KEY)


def test_residues_outside_the_field_are_refused() -> None:
    fixed, bad = FixedPoint(), torch.tensor([SOLINAS31.modulus], dtype=torch.int32)
    for take in (fixed.decode, fixed.integers):
        with pytest.raises(ArgumentError, match="outside"):
            take(bad)


def tree() -> dict[str, object]:
    return {
        "w": torch.randn(3, 4),
        "half": [torch.randn(5).half(), torch.randn(2, 1).bfloat16()],
        "steps": torch.tensor(2**24),
        "mask": torch.tensor([True, False]),
        "none": torch.empty(0, 7),
        "bytes": (torch.tensor([-128, 127], dtype=torch.int8),),
    }


def test_flatten_and_back_loses_nothing() -> None:
    given_tree = tree()
    flat, rebuild = flatten(given_tree)
    assert (flat.dtype, flat.shape) == (torch.float32, (12 + 5 + 2 + 1 + 2 + 0 + 2,))
    back = rebuild(flat)
    assert list(back) == list(given_tree)
    pairs = zip(
        torch.utils._pytree.tree_leaves(given_tree),
        torch.utils._pytree.tree_leaves(back),
        strict=True,
    )
    for before, after in pairs:
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        assert torch.equal(before, after)
    assert isinstance(back["half"], list) and isinstance(back["bytes"], tuple)


def test_a_module_takes_its_flattened_state_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    flat, rebuild = flatten(model.state_dict())
    assert not flat.requires_grad
    twice = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    twice.load_state_dict(rebuild(flat))
    for a, b in itertools.zip_longest(model.state_dict().values(), twice.state_dict().values()):
        assert torch.equal(a, b)


def test_rebuilt_tensors_share_no_memory_with_the_vector() -> None:
    flat, rebuild = flatten([torch.zeros(3), torch.zeros(2)])
    first, second = rebuild(flat)
    flat.fill_(7)
    first.fill_(5)
    assert not second.any()


def test_integers_come_back_rounded_and_bools_from_a_half_on() -> None:
    _, rebuild = flatten([torch.tensor([1, 2]), torch.tensor([True, True, False])])
    vector = torch.tensor([1.4, -2.6, 0.5, 0.4999, 3.0])
    assert [t.tolist() for t in rebuild(vector)] == [[1, -3], [True, False, True]]
    _, narrow = flatten(torch.tensor([1], dtype=torch.uint8))
    assert narrow(torch.tensor([300.0])).tolist() == [255]


@pytest.mark.parametrize(
    ("leaves", "error", "words"),
    [
        ({"a": 1.0}, DtypeError, "leaf 0 is float; it must be a torch.Tensor"),
        ([torch.ones(1), torch.ones(1).double()], DtypeError, "leaf 1 has dtype torch.float64"),
        ([torch.ones(1, dtype=torch.complex64)], DtypeError, "torch.complex64"),
        ([torch.tensor([2**24 + 1])], ArgumentError, r"an integer above 2\^24"),
        ([torch.tensor([-(2**63)])], ArgumentError, r"an integer above 2\^24"),
        ([torch.ones(1), torch.ones(1, device="meta")], ArgumentError, "must be on one device"),
    ],
)
def test_what_float32_cannot_hold_is_refused(
    leaves: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        flatten(leaves)


@pytest.mark.parametrize(
    ("vector", "error", "words"),
    [
        (torch.ones(3), ArgumentError, "vector has 3 elements; the tree has 2"),
        (torch.ones(2).double(), DtypeError, "vector has dtype torch.float64"),
        (torch.ones(2, 1), ArgumentError, "vector has 2 dimensions"),
        (torch.tensor([1.0, float("nan")]), ArgumentError, "NaN or infinity where the tree has"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    vector: torch.Tensor, error: type[Exception], words: str
) -> None:
    _, rebuild = flatten([torch.ones(1), torch.tensor([1])])
    with pytest.raises(error, match=words):
        rebuild(vector)


def test_an_empty_tree_is_an_empty_vector() -> None:
    flat, rebuild = flatten({})
    assert flat.shape == (0,) and rebuild(flat) == {}

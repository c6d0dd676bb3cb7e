"""WIDE, two prime fields as planes: exact where one prime would wrap, and refused where unclear."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction
from typing import Any

import flint
import pytest
import torch

import oracles
import pyfed
from pyfed import SOLINAS31, WIDE, Field, FixedPoint, Key, LagrangeCode, WideField
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.fields import plane_moduli
from runs import simd_level, simd_levels
from wide_cases import PRIMES, largest, residues

RAW = bytes(range(32))
KEY = Key(RAW)
SECOND = WIDE.planes[1]
PRODUCT = PRIMES[0] * PRIMES[1]


def crt(pair: tuple[int, int], primes: tuple[int, ...] = PRIMES) -> int:
    """The integer of least magnitude with two residues."""
    p, q = primes
    value = (pair[0] * q * pow(q, -1, p) + pair[1] * p * pow(p, -1, q)) % (p * q)
    return value - p * q if value > (p * q - 1) // 2 else value


def planes(values: list[int], primes: tuple[int, ...] = PRIMES) -> torch.Tensor:
    return torch.tensor([[v % p for v in values] for p in primes], dtype=torch.int32)


def test_the_second_prime_is_the_frozen_one() -> None:
    assert PRIMES == (2**31 - 2**17 + 1, 2**31 - 2**19 + 1)
    assert WIDE.modulus == PRODUCT
    factors = [p for p, _ in flint.fmpz(PRIMES[1] - 1).factor()]
    generates = [
        all(pow(g, (PRIMES[1] - 1) // int(f), PRIMES[1]) != 1 for f in factors)
        for g in range(1, 20)
    ]
    assert generates.index(True) + 1 == 19
    assert plane_moduli(WIDE.code) == PRIMES


def test_points_of_the_second_plane_are_two_cosets_of_roots_of_unity() -> None:
    alphas, betas = oracles.points(PRIMES[1], 4096, 4096)
    assert SECOND.share_points(4096) == alphas
    assert SECOND.block_points(4096) == betas
    assert len({*alphas, *betas}) == 8192
    assert all(pow(a, 4096, PRIMES[1]) == 1 for a in alphas)


def test_every_pair_of_residues_of_tiny_planes_is_one_integer() -> None:
    wide = WideField("tiny", 13 * 11, first=Field("a", 13), second=Field("b", 11))
    values = list(range(-71, 72))
    pairs = planes(values, (13, 11))
    assert pyfed.ops.field_lift(pairs, wide).tolist() == values
    swapped = WideField("tiny", 13 * 11, first=Field("b", 11), second=Field("a", 13))
    assert pyfed.ops.field_lift(pairs.flip(0), swapped).tolist() == values
    left, right = (torch.tensor(t) for t in zip(*itertools.product(values, values), strict=True))
    total = pyfed.ops.field_sum(
        torch.stack([planes(left.tolist(), (13, 11)), planes(right.tolist(), (13, 11))], 1), wide
    )
    fits = (left + right).abs() <= 71
    assert torch.equal(pyfed.ops.field_lift(total, wide)[fits], (left + right)[fits])


@pytest.mark.parametrize("level", simd_levels())
@pytest.mark.parametrize("inner", [8, 9, 255, 256, 257, 1024])
def test_products_at_the_bounds_of_centred_operands(level: str, inner: int) -> None:
    """(p - 1) / 2 and (p + 1) / 2 are the largest centred residues: no lazy sum may overflow."""
    for low, high in itertools.product((0, 1), repeat=2):
        a, b = (
            torch.stack([torch.full(shape, (p - 1) // 2 + up, dtype=torch.int32) for p in PRIMES])
            for shape, up in (((9, inner), low), ((inner, 21), high))
        )
        with simd_level(level):
            got = pyfed.ops.field_matmul(a, b, WIDE)
        for plane, p in zip(got, PRIMES, strict=True):
            wanted = inner * ((p - 1) // 2 + low) * ((p - 1) // 2 + high) % p
            assert plane.unique().tolist() == [wanted]


@pytest.mark.parametrize("level", simd_levels())
def test_products_and_sums_of_nothing_but_minus_one(level: str) -> None:
    with simd_level(level):
        product = pyfed.ops.field_matmul(largest(9, 1000), largest(1000, 21), WIDE)
        assert pyfed.ops.field_lift(product, WIDE).unique().tolist() == [1000]
        total = pyfed.ops.field_sum(largest(1000, 33), WIDE, weights=[PRODUCT - 1] * 1000)
        assert pyfed.ops.field_lift(total, WIDE).unique().tolist() == [1000]
        total = pyfed.ops.field_sum(largest(1000, 33), WIDE)
        assert pyfed.ops.field_lift(total, WIDE).unique().tolist() == [-1000]


@pytest.mark.parametrize("level", simd_levels())
def test_products_are_flints(level: str) -> None:
    a, b = residues(17, 300), residues(300, 23)
    with simd_level(level):
        got = pyfed.ops.field_matmul(a, b, WIDE)
    for plane, x, y, p in zip(got, a, b, PRIMES, strict=True):
        wanted = flint.nmod_mat(x.tolist(), p) * flint.nmod_mat(y.tolist(), p)
        assert plane.tolist() == [[int(v) for v in row] for row in wanted.table()]


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_lifts_and_floats_are_those_of_python_integers(backend: str) -> None:
    rng = random.Random(3)
    half = (PRODUCT - 1) // 2
    # Ties and near ties of float32 with more bits than float64 has: one rounding, not two.
    halfway = [(2**24 + 1) << shift for shift in range(1, 36)]
    values = [0, 1, -1, half, -half, *halfway, *[-v for v in halfway]]
    values += [v + d for v in halfway[8:] for d in (1, -1)]
    values += [rng.randrange(-half, half + 1) for _ in range(100)]
    with pyfed.use_backend(backend):
        lifted = pyfed.ops.field_lift(planes(values), WIDE)
        floats = pyfed.ops.dequantize(planes(values), 2.0**20, WIDE)
    assert lifted.dtype == torch.int64
    assert lifted.tolist() == values == [crt((v % PRIMES[0], v % PRIMES[1])) for v in values]

    def rounded(v: int) -> float:
        """Half to even, at 24 bits."""
        drop = max(v.bit_length() - 24, 0)
        return float(round(Fraction(v, 2**drop)) * 2**drop)

    assert floats.tolist() == [rounded(v) / 2**20 for v in values]


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_lifts_of_the_ends_of_both_planes_are_exact(backend: str) -> None:
    """Also where the first residue is above the second by more than the second prime."""
    firsts = [0, 1, PRIMES[1] - 1, PRIMES[1], PRIMES[1] + 1, PRIMES[0] - 1]
    pairs = list(itertools.product(firsts, [0, 1, PRIMES[1] // 2, PRIMES[1] - 1]))
    given = torch.tensor(pairs, dtype=torch.int32).t()
    with pyfed.use_backend(backend):
        assert pyfed.ops.field_lift(given, WIDE).tolist() == [crt(pair) for pair in pairs]


def test_masks_of_the_planes_are_streams_of_their_own_fields() -> None:
    got = pyfed.ops.random_residues(KEY, 40, WIDE, stream=7, start=5)
    wanted = [[oracles.residue(RAW, i, p, stream=7) for i in range(5, 45)] for p in PRIMES]
    assert got.tolist() == wanted
    start = residues(40)
    moved = pyfed.ops.add_masks_(start.clone(), [KEY, KEY], [1, 1], WIDE, stream=7, start=5)
    for before, after, mask, p in zip(start, moved, wanted, PRIMES, strict=True):
        expected = [(x + 2 * m) % p for x, m in zip(before.tolist(), mask, strict=True)]
        assert after.tolist() == expected


def test_a_residue_whose_first_candidates_are_rejected_is_drawn_again_in_the_second_plane() -> None:
    index = next(i for i in itertools.count() if oracles.residue_attempts(RAW, i, PRIMES[1])[1])
    got = pyfed.ops.random_residues(KEY, 3, WIDE, start=index)[1]
    assert got.tolist() == [oracles.residue(RAW, i, PRIMES[1]) for i in range(index, index + 3)]


def test_quantized_planes_hold_one_rounding() -> None:
    values = torch.randn(300)
    pair = pyfed.ops.quantize(values, 2.0**12, 2.0, WIDE, KEY, stream=3, start=9)
    exact = [float(v) for v in values]
    for plane, p in zip(pair, PRIMES, strict=True):
        wanted = oracles.quantize(exact, 2.0**12, 2.0, p, RAW, stream=3, start=9)
        assert plane.tolist() == wanted


@pytest.mark.parametrize(("shares", "blocks", "privacy"), [(5, 2, 1), (1, 1, 0), (6, 3, 3)])
def test_shares_are_those_of_each_plane(shares: int, blocks: int, privacy: int) -> None:
    code, data = LagrangeCode(shares, blocks, privacy, WIDE), residues(7)
    encoded = code.encode(data, KEY, stream=4, start_column=6)
    for plane, values, p in zip(encoded, data, PRIMES, strict=True):
        wanted = oracles.encode(values.tolist(), RAW, p, shares, blocks, privacy, 4, 6)
        assert plane.tolist() == wanted


def test_any_threshold_shares_decode_and_wrong_ones_are_named_whichever_plane_they_are_in() -> None:
    code, data = LagrangeCode(9, 3, 2, WIDE), residues(50)
    shares = code.encode(data, KEY)
    for chosen in itertools.combinations(range(9), 5):
        assert torch.equal(code.decode(shares[:, list(chosen)], chosen, 50), data)
    for first, second in ((1, 1), (1, 8)):
        bad = shares.clone()
        bad[0, first, 3] ^= 1
        bad[1, second, 11] ^= 1
        wrong = tuple(sorted({first, second}))
        assert code.find_errors(bad, range(9)) == wrong
        repaired, found = code.repair(bad, range(9), 50, correct=2)
        assert found == wrong
        assert torch.equal(repaired, data)
    with pytest.raises(DecodeError, match=r"\[1, 8\]") as caught:
        code.decode(bad, range(9), 50, correct=1)  # one in each plane
    assert caught.value.rows == (1, 8)
    bad[0, :3] ^= 1
    with pytest.raises(DecodeError):
        code.find_errors(bad, range(9))


def test_weights_and_clients_that_one_prime_refuses_are_exact_over_two() -> None:
    numbers: dict[str, Any] = {"clip": 1.0, "bits": 30, "clients": 64, "max_weight": 50_000_000}
    with pytest.raises(ArgumentError, match=r"exceeds .* or field=WIDE"):
        FixedPoint(**numbers)
    fixed = FixedPoint(**numbers, field=WIDE)
    updates = torch.rand(64, 20, dtype=torch.float64).mul(2).sub(1).float()
    updates[:, 0], updates[:, 1] = 1.0, -1.0  # the largest sums
    weights = [50_000_000] * 64
    encoded = torch.stack(
        [
            fixed.encode(u, Key(bytes([i] * 32)), w)
            for i, (u, w) in enumerate(zip(updates, weights, strict=True))
        ],
        dim=1,
    )
    total = pyfed.ops.field_sum(encoded, WIDE)
    wanted = [0] * 20
    for i, (update, weight) in enumerate(zip(updates.tolist(), weights, strict=True)):
        key = bytes([i] * 32)
        steps = oracles.quantize(update, fixed.scale, 1.0, 2**61 - 1, key)
        for place, step in enumerate(steps):
            wanted[place] += weight * oracles.centred(step, 2**61 - 1)
    assert fixed.integers(total).tolist() == wanted
    assert wanted[0] == 64 * 50_000_000 * 2**29 > 2**60
    mean = fixed.decode(total, sum(weights))
    assert mean[:2].tolist() == [1.0, -1.0]
    assert torch.allclose(mean, updates.mean(0), atol=1e-6)


def test_a_fixed_point_whose_sums_could_leave_the_pair_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"exceeds \(p - 1\) / 2 = 2305139358278811648 of WIDE"):
        FixedPoint(clip=1.0, bits=30, clients=2**16, max_weight=2**17, field=WIDE)
    FixedPoint(clip=1.0, bits=30, clients=2**16, max_weight=2**15, field=WIDE)


ONE = torch.zeros(2, 3, dtype=torch.int32)
REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: pyfed.ops.field_lift(ONE[:1], WIDE), ArgumentError, r"\(1, 3\); over WIDE its first"),
    (lambda: pyfed.ops.field_sum(ONE[0], WIDE), ArgumentError, "first axis must hold the 2 planes"),
    (lambda: pyfed.ops.field_sum(ONE[:, 0], WIDE), ArgumentError, "axis 1 must count the clients"),
    (lambda: pyfed.ops.field_matmul(ONE, ONE, WIDE), ArgumentError, "2 dimensions.*must have 3"),
    (lambda: pyfed.ops.field_matmul(ONE[None], ONE[None], SOLINAS31), ArgumentError, "have 2"),
    (lambda: pyfed.ops.dequantize(ONE.long(), 1.0, WIDE), DtypeError, "int64"),
    (lambda: LagrangeCode(3, 1, 1, WIDE).encode(ONE[0]), ArgumentError, "must have 2"),
    (lambda: LagrangeCode(3, 1, 1, SOLINAS31).encode(ONE), ArgumentError, "must have 1"),
    (lambda: FixedPoint(field=WIDE).integers(ONE[0]), ArgumentError, "hold the 2 planes"),
    (lambda: pyfed.lanes.VoteLanes(3, WIDE), ArgumentError, "WIDE, which has two planes"),
    (lambda: WideField("x", 12, first=SOLINAS31, second=SECOND), ArgumentError, "modulus is 12"),
    (lambda: WideField("x", 9, first=Field("a", 3), second=Field("a", 3)), ArgumentError, "both"),
    (lambda: WideField("x", PRODUCT, "integers"), ArgumentError, "points"),
    (lambda: WideField("x", 15, first=WIDE), DtypeError, "a plane is WideField"),
    (lambda: WIDE.share_points(3), ArgumentError, "ask each of its planes"),
    (lambda: WIDE.check_points(4097, 1), ArgumentError, "4096 points"),
]


@pytest.mark.parametrize(("call", "error", "words"), REFUSED)
def test_what_mixes_planes_up_is_refused(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("plane", [0, 1])
def test_a_residue_of_the_other_plane_is_told_with_its_place_and_changes_nothing(
    plane: int,
) -> None:
    values = residues(9)
    values[plane, 4] = PRIMES[plane]
    before = values.clone()
    words = rf"{PRIMES[plane]}\).* at index \({plane}, 4\)"
    for call in (
        lambda: pyfed.ops.field_lift(values, WIDE),
        lambda: pyfed.ops.dequantize(values, 1.0, WIDE),
        lambda: pyfed.ops.add_masks_(values, [KEY], [1], WIDE),
        lambda: LagrangeCode(3, 1, 1, WIDE).encode(values, KEY),
        lambda: FixedPoint(field=WIDE).integers(values),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()
        assert torch.equal(values, before)

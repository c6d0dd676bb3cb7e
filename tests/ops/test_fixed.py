"""Fixed point against exact fractions: clipping, ties, denormals, bias, the edges of the scale."""

from __future__ import annotations

import math

import pytest
import torch

import oracles
import pyfed.ops.fixed as fixed_ops
from pyfed import MERSENNE31, SOLINAS31, Key, use_backend
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops import dequantize, quantize
from runs import Run, runs_of

KEY = Key(bytes(range(32)))
FIELDS = pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
QUANTIZE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("quantize"))
DEQUANTIZE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("dequantize"))

DENORMAL, TINIEST, LARGEST = 1.1e-38, 2.0**-149, (2 - 2.0**-23) * 2.0**127
EDGES = [
    *(0.0, -0.0, TINIEST, -TINIEST, 3 * TINIEST, DENORMAL, -DENORMAL, 2.0**-126, -(2.0**-126)),
    *(LARGEST, -LARGEST, 1.0, -1.0, 1 - 2.0**-24, -1 + 2.0**-24, 1 + 2.0**-23, -1 - 2.0**-23),
    *(0.5, -0.5, 0.5 + 2.0**-24, 0.5 - 2.0**-25, -0.5 + 2.0**-25, 2.0**-25, 2.0**-24),
]


@FIELDS
@QUANTIZE_RUNS
def test_edge_values_equal_exact_fractions_at_every_scale(op: str, run: Run, field: object) -> None:
    exponents = (-100, 0, 15, 100) if run.interpreted else (-100, -24, -1, 0, 1, 15, 24, 29, 100)
    for exponent in exponents:
        for power in (-149, -126, -101, -71, 0, 29, 127):
            clip = 2.0**power
            if not clip * 2.0**exponent <= 2.0**29:
                continue
            for multiple in {1.0, max(clip, 2.0**-exponent)}:
                values = [oracles.float32(v * multiple) for v in EDGES]
                values = [v for v in values if math.isfinite(v)]
                tensor = torch.tensor(values, device=run.device)
                how = values, 2.0**exponent, clip, field.modulus
                with run.active():
                    nearest = quantize(tensor, 2.0**exponent, clip, field)
                    rounded = quantize(tensor, 2.0**exponent, clip, field, KEY, 4, 11)
                assert nearest.tolist() == oracles.quantize(*how), (exponent, power)
                wanted = oracles.quantize(*how, KEY.reveal(), 4, 11)
                assert rounded.tolist() == wanted, (exponent, power)


@FIELDS
@QUANTIZE_RUNS
def test_ties_without_a_key_go_to_even(op: str, run: Run, field: object) -> None:
    halves = [n + 0.5 for n in range(-6, 6)]
    with run.active():
        got = quantize(torch.tensor(halves, device=run.device), 1.0, 8.0, field)
    wanted = [-6, -4, -4, -2, -2, 0, 0, 2, 2, 4, 4, 6]
    assert [oracles.centred(r, field.modulus) for r in got.tolist()] == wanted


@FIELDS
@QUANTIZE_RUNS
def test_the_largest_steps_are_exact(op: str, run: Run, field: object) -> None:
    largest = 2**30 - 2**20
    steps = [largest, largest - 64, 2**29 + 64, -largest]
    for key in (None, KEY):
        with run.active():
            got = quantize(torch.tensor(steps, device=run.device).float(), 1.0, largest, field, key)
        assert [oracles.centred(r, field.modulus) for r in got.tolist()] == steps


@QUANTIZE_RUNS
def test_random_rounding_is_unbiased_with_the_least_variance(op: str, run: Run) -> None:
    """Mean y and variance f·(1 - f), each within 5 sigma of the sample."""
    count = 4_000 if run.interpreted else 200_000
    for f in (0.5, 0.1, 0.9, 0.001, 1 / 3):
        for whole in (0, -1, 7):
            y = oracles.float32(whole + f)
            values = torch.full((count,), y, device=run.device)
            with run.active():
                got = quantize(values, 1.0, 8.0, MERSENNE31, KEY, stream=whole & 7).cpu().double()
            steps = torch.where(got > 2**30, got - MERSENNE31.modulus, got)
            part = y - math.floor(y)
            spread = math.sqrt(part * (1 - part))
            assert abs(float(steps.mean()) - y) < 5 * spread / math.sqrt(count)
            assert set(steps.unique().tolist()) <= {math.floor(y), math.floor(y) + 1}
            # The variance of a two-valued sample is m(1 - m), m its mean over the floor.
            fourth = part * (1 - part) * abs(1 - 2 * part) / math.sqrt(count) + 1 / count
            assert abs(float(steps.var()) - spread**2) < 5 * fourth


def test_over_all_random_words_the_bias_is_below_2_to_the_minus_24(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every one of the 2^24 high parts once, exactly trunc(fraction · 2^24) round up."""
    every = torch.arange(2**24) << 8
    monkeypatch.setattr(fixed_ops, "words_reference", lambda *where: every)
    for y in (0.3, -0.3, 2.0**-25):
        y = oracles.float32(y)
        with use_backend("reference"):
            got = quantize(torch.tensor(y).expand(2**24), 1.0, 1.0, MERSENNE31, KEY)
        values, counts = got.unique(return_counts=True)
        total = sum(
            oracles.centred(v, MERSENNE31.modulus) * n
            for v, n in zip(values.tolist(), counts.tolist(), strict=True)
        )
        assert total == math.trunc(y * 2**24)
        assert abs(total / 2**24 - y) < 2.0**-24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@QUANTIZE_RUNS
def test_half_precision_is_widened_exactly(op: str, run: Run, dtype: torch.dtype) -> None:
    patterns = torch.arange(-(2**15), 2**15, 37, dtype=torch.int32).to(torch.int16)
    values = patterns.view(dtype)
    values = values[torch.isfinite(values)].to(run.device)
    with run.active():
        got = quantize(values, 2.0**12, 2.0, SOLINAS31, KEY)
        wide = quantize(values.float(), 2.0**12, 2.0, SOLINAS31, KEY)
    assert torch.equal(got, wide)
    some = values[::50].cpu()
    nearest = quantize(some, 2.0**12, 2.0, SOLINAS31).tolist()
    assert nearest == oracles.quantize(some.tolist(), 2.0**12, 2.0, SOLINAS31.modulus)


@QUANTIZE_RUNS
def test_pieces_with_their_own_start_equal_the_whole(op: str, run: Run) -> None:
    values = torch.randn(300, device=run.device)
    with run.active():
        whole = quantize(values, 256.0, 2.0, SOLINAS31, KEY, 3, 100)
        for cut in (1, 15, 16, 17, 200):
            head = quantize(values[:cut], 256.0, 2.0, SOLINAS31, KEY, 3, 100)
            tail = quantize(values[cut:], 256.0, 2.0, SOLINAS31, KEY, 3, 100 + cut)
            assert torch.equal(torch.cat([head, tail]), whole)


@QUANTIZE_RUNS
def test_flushing_denormals_to_zero_changes_nothing(op: str, run: Run) -> None:
    values = torch.tensor([TINIEST, -TINIEST, DENORMAL, -DENORMAL, 0.3], device=run.device)
    scale, clip = 2.0**100, 2.0**-80
    with run.active():
        before = [quantize(values, scale, clip, SOLINAS31, key) for key in (None, KEY)]
    assert torch.set_flush_denormal(True)
    try:
        with run.active():
            after = [quantize(values, scale, clip, SOLINAS31, key) for key in (None, KEY)]
    finally:
        torch.set_flush_denormal(False)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


@FIELDS
@DEQUANTIZE_RUNS
def test_the_centred_lift_is_right_on_both_sides_of_half(op: str, run: Run, field: object) -> None:
    p = field.modulus
    half = (p - 1) // 2
    near = [0, 1, 2, p - 1, p - 2, *range(half - 40, half + 40), *range(2**24 - 9, 2**24 + 9)]
    near += [p - n for n in range(2**24 - 9, 2**24 + 9)]
    residues = torch.tensor(near, dtype=torch.int32, device=run.device)
    for exponent in (-100, -97, -13, 0, 13, 100):
        with run.active():
            got = dequantize(residues, 2.0**exponent, field)
        assert got.tolist() == oracles.dequantize(near, 2.0**exponent, p)
        assert math.copysign(1, got[0]) == 1  # residue 0 is +0.0


@FIELDS
def test_dequantize_undoes_quantize_to_half_a_step(field: object) -> None:
    values = torch.randn(10_000).clamp(-3, 3)
    back = dequantize(quantize(values, 2.0**15, 4.0, field), 2.0**15, field)
    assert float((back - values).abs().max()) <= 2.0**-16
    whole = torch.arange(-(2**20), 2**20, 777).float() * 2.0**-18
    assert torch.equal(dequantize(quantize(whole, 2.0**18, 4.0, field, KEY), 2.0**18, field), whole)


VALUES = torch.ones(3)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"values": [1.0]}, DtypeError, "values is list"),
        ({"values": VALUES.double()}, DtypeError, "values has dtype torch.float64; it must be"),
        ({"values": VALUES.int()}, DtypeError, "values has dtype torch.int32"),
        ({"scale": 3.0}, ArgumentError, "scale is 3.0; it must be a power of two"),
        ({"scale": 0.0}, ArgumentError, "scale is 0.0; it must be a power of two"),
        ({"scale": -2.0}, ArgumentError, "scale is -2.0"),
        ({"scale": NAN}, ArgumentError, "scale is nan"),
        ({"scale": INF}, ArgumentError, "scale is inf"),
        ({"scale": 2.0**101, "clip": 2.0**-100}, ArgumentError, r"from 2\^-100 to 2\^100"),
        ({"scale": 2.0**-101}, ArgumentError, r"from 2\^-100 to 2\^100"),
        ({"scale": True}, DtypeError, "scale is bool"),
        ({"scale": "2"}, DtypeError, "scale is str; it must be a float"),
        ({"clip": 0.0}, ArgumentError, "clip is 0.0; it must be positive and finite"),
        ({"clip": -1.0}, ArgumentError, "clip is -1.0"),
        ({"clip": NAN}, ArgumentError, "clip is nan"),
        ({"clip": INF}, ArgumentError, "clip is inf"),
        ({"clip": 1e39}, ArgumentError, "finite in float32"),
        ({"clip": 1e-46}, ArgumentError, "clip is 1e-46"),
        ({"clip": None}, DtypeError, "clip is NoneType"),
        ({"scale": 2.0**30}, ArgumentError, "at most 1072693248 in SOLINAS31: use a smaller"),
        ({"key": bytes(32)}, DtypeError, "key is bytes"),
        ({"key": KEY, "start": 2**36 - 2}, ArgumentError, r"start \+ count"),
        ({"stream": -1}, ArgumentError, "stream is -1"),
        ({"field": 7}, DtypeError, "field is int"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    given = {"values": VALUES, "scale": 4.0, "clip": 1.0, "field": SOLINAS31, **arguments}
    with pytest.raises(error, match=words):
        quantize(**given)


@pytest.mark.parametrize(
    ("residues", "scale", "error", "words"),
    [
        (VALUES, 1.0, DtypeError, "residues has dtype torch.float32; it must be torch.int32"),
        (VALUES.int(), 0.3, ArgumentError, "scale is 0.3; it must be a power of two"),
        (
            -VALUES.int(),
            1.0,
            ArgumentError,
            r"in residues 3 of \d+ elements are outside \[0, 2147352577\)",
        ),
    ],
)
def test_bad_residues_are_named(
    residues: torch.Tensor, scale: float, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        dequantize(residues, scale, SOLINAS31)


def test_scale_and_clip_may_change_between_calls_of_a_compiled_function() -> None:
    """The compiler makes a float symbolic at its second value."""
    compiled = torch.compile(
        lambda x, scale, clip: dequantize(quantize(x, scale, clip, SOLINAS31), scale, SOLINAS31),
        fullgraph=True,
        backend="aot_eager",
    )
    values = torch.linspace(-3, 3, 13)
    for scale, clip in ((4.0, 1.0), (8.0, 1.0), (8.0, 2.5), (16.0, 0.3)):
        plain = dequantize(quantize(values, scale, clip, SOLINAS31), scale, SOLINAS31)
        assert torch.equal(compiled(values, scale, clip), plain)

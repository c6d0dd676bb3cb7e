"""A client's upload: the bits of its steps one by one, on every path, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import oracles
import pyfed
from pyfed import MERSENNE31, SOLINAS31, Field, FixedPoint, Key
from pyfed.errors import ArgumentError, DtypeError, PyfedError
from pyfed.ops import add_masks_, quantize, quantize_encode, quantize_mask
from pyfed.ops.random import ROUNDING, domain, words_reference
from runs import Run, runs_of

RAW = bytes(range(32))
KEY = Key(RAW)
OWN = KEY.derive("own")
P = SOLINAS31.modulus
VECTORS = Path(__file__).parents[1] / "vectors"
RUNS = pytest.mark.parametrize(("op", "run"), runs_of("quantize_mask"))


@RUNS
def test_the_steps_one_by_one_give_the_same_bits(op: str, run: Run) -> None:
    """Beyond what a thread takes at a time, from the middle of a block, with a weight."""
    length = 700 if run.interpreted else 40_003
    keys, signs = [KEY.derive("pair", i) for i in range(3)], [1, -1, -1]
    for field in (SOLINAS31, MERSENNE31):
        fixed = FixedPoint(clip=2.0, bits=14, clients=10, max_weight=5, field=field)
        torch.manual_seed(3)
        values = torch.randn(length)
        with pyfed.use_backend("reference"):
            wanted = fixed.encode(values, OWN, 5, stream=9, start=21)
            add_masks_(wanted, keys, signs, field, 9, 21)
        how = {"key": OWN, "weight": 5, "stream": 9, "start": 21}
        with run.active():
            got = quantize_mask(
                values.to(run.device), fixed.scale, fixed.clip, field, keys, signs, **how
            )
        assert torch.equal(got.cpu(), wanted)


@RUNS
def test_any_range_can_be_made_in_any_parts(op: str, run: Run) -> None:
    values = torch.linspace(-1, 1, 600, device=run.device)
    how = {"key": OWN, "stream": 2**32 - 1}

    def part(first: int, end: int) -> torch.Tensor:
        start = 2**36 - 600 + first
        given = values[first:end], 2.0**10, 1.0, SOLINAS31, [KEY], [-1]
        return quantize_mask(*given, **how, start=start)

    with run.active():
        whole = part(0, 600)
        for cut in (17,) if run.interpreted else (1, 15, 16, 255, 511, 599):
            assert torch.equal(torch.cat([part(0, cut), part(cut, 600)]), whole)


@RUNS
def test_the_largest_weighted_steps_stay_exact_under_masks_of_one_sign(op: str, run: Run) -> None:
    """With ⌈clip · scale⌉ it gives (p - 1) / 2 or a little less; both ends, and beyond the clip."""
    keys = [KEY.derive("many", i) for i in range(3)]
    for field in (SOLINAS31, MERSENNE31):
        p = field.modulus
        half = (p - 1) // 2
        sums = [sum(oracles.residue(k.reveal(), i, p) for k in keys) for i in range(3)]
        for scale, clip, weight in ((1.0, 1.0, half), (2.0**20, 0.75, half // (3 << 18))):
            values = [clip, -clip, 3 * clip]
            rounded = oracles.quantize(values, scale, clip, p)
            given = torch.tensor(values, device=run.device), scale, clip, field, keys
            for sign in (1, -1):
                with run.active():
                    got = quantize_mask(*given, [sign] * 3, weight=weight)
                wanted = [(weight * r + sign * s) % p for r, s in zip(rounded, sums, strict=True)]
                assert got.tolist() == wanted


@RUNS
def test_sixteen_rejections_are_told_of_in_the_range_and_nowhere_else(op: str, run: Run) -> None:
    field, stream, index = Field("test", 2**30 + 3), 11, 67_571
    for start, length in ((index - 3, 3), (index + 1, 4)):
        values = torch.zeros(length, device=run.device)
        with run.active():
            got = quantize_mask(values, 1.0, 1.0, field, [KEY], [1], stream=stream, start=start)
        assert int(got[0]) == oracles.residue(RAW, start, field.modulus, stream=stream)
    values = torch.zeros(9, device=run.device)
    with pytest.raises(PyfedError, match=r"16 candidates"), run.active():
        quantize_mask(values, 1.0, 1.0, field, [KEY], [1], stream=stream, start=index - 5)


@RUNS
def test_a_range_may_end_at_any_word_of_a_group_or_a_span(op: str, run: Run) -> None:
    """At and around whole groups of blocks, 64 to 256 words, and spans of 32 groups."""
    sizes = (64, 65) if run.interpreted else (64, 65, 128, 129, 256, 257, 2048, 4096, 8192)
    whole = torch.linspace(-1, 1, sizes[-1] + 1)
    given = 2.0**12, 1.0, SOLINAS31, [KEY], [-1]
    for skip in (0, 9):
        how = {"key": OWN, "start": 32 + skip}
        with pyfed.use_backend("reference"):
            wanted = quantize_mask(whole, *given, **how)
        for length in sizes:
            for count in (length - skip, length - skip + 1, length):
                with run.active():
                    got = quantize_mask(whole[:count].to(run.device), *given, **how)
                assert torch.equal(got.cpu(), wanted[:count]), (skip, count)


@RUNS
def test_a_rejected_candidate_is_replaced_at_either_end_of_a_range(op: str, run: Run) -> None:
    vector = json.loads((VECTORS / "residue_rejections.json").read_text())
    key, stream = Key(bytes.fromhex(vector["key_hex"])), vector["stream"]
    cases = [f for f in vector["found"] if f["purpose"] == 1]
    assert cases
    for answer in cases:
        field = getattr(pyfed, answer["field"])
        for length, place in ((1, 0), (10, 0), (10, 9)):
            where = {"stream": stream, "start": answer["index"] - place}
            values = torch.zeros(length, device=run.device)
            with run.active():
                got = quantize_mask(values, 1.0, 1.0, field, [key], [1], **where)
            assert int(got[place]) == answer["value"]


@RUNS
def test_rounding_up_begins_at_the_very_word_whose_sum_with_the_fraction_is_one(
    op: str, run: Run
) -> None:
    """Fractions of 24 bits, just as far from 1 as the word says, and one unit further."""
    words = words_reference(OWN.words(), 0, 400, [0, 0, domain(ROUNDING)]) >> 8
    further = torch.arange(400) % 2
    given = 1.0, 1.0, SOLINAS31
    for steps, wanted in ((2**24 - words - further, 1 - further), (-words - further, -further)):
        values = (steps / 2.0**24).to(run.device)  # exact
        with run.active():
            got = quantize_mask(values, *given, [], [], OWN)
            assert torch.equal(quantize(values, *given, OWN), got)
        assert torch.equal(got.cpu().long(), wanted % P)
        if run.backend == "cpu":
            eye = torch.eye(2, dtype=torch.int32)
            with run.active():
                rows = quantize_encode(values, 1.0, 1.0, eye, OWN, SOLINAS31, 2)
            assert torch.equal(rows.t().reshape(-1), got)


@pytest.mark.parametrize("how", ["run", "raise", "explain"])
def test_the_stacked_key_words_are_overwritten_and_the_keys_are_not(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.Tensor] = []
    stack = torch.stack

    def recorded(tensors: Any) -> torch.Tensor:
        made.append(stack(tensors))
        assert made[-1].any()
        return made[-1]

    monkeypatch.setattr(torch, "stack", recorded)
    key, values = Key(RAW), torch.zeros(40)
    given = values, 1.0, 1.0, SOLINAS31, [key, key], [1, -1]
    if how == "explain":
        assert "cpu" in quantize_mask.explain(*given)
    elif how == "raise":
        values[3] = float("nan")
        with pytest.raises(ArgumentError, match="NaN"):
            quantize_mask(*given)
    else:
        assert not quantize_mask(*given).any()
    assert len(made) == 1
    assert not made[0].any()
    assert key == KEY


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"values": torch.zeros(3).int()}, DtypeError, "values has dtype torch.int32"),
        ({"values": torch.zeros(2, 2)}, ArgumentError, "values has 2 dimensions"),
        ({"keys": KEY}, DtypeError, "keys is Key; it must be a list"),
        ({"signs": [0]}, ArgumentError, r"signs\[0\] is 0; it must be 1 or -1"),
        ({"signs": []}, ArgumentError, "signs has 0 elements; there are 1 keys"),
        ({"scale": 3.0}, ArgumentError, "scale is 3.0"),
        ({"clip": 0.0}, ArgumentError, "clip is 0.0"),
        ({"weight": -1}, ArgumentError, "weight is -1"),
        ({"weight": 1.0}, DtypeError, "weight is float"),
        ({"weight": P // 2 // 4 + 1}, ArgumentError, r"weight · ⌈clip · scale⌉ is 268419073 · 4"),
        (
            {"clip": 0.3, "weight": P // 4 + 1},
            ArgumentError,
            r"is 536838145 · 2; it must be at most",
        ),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296"),
        ({"start": 2**36 - 2}, ArgumentError, r"start \+ count is 68719476737"),
        ({"values": torch.zeros(3, requires_grad=True)}, ArgumentError, "values require grad"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"values": torch.zeros(3), "scale": 4.0, "clip": 1.0, "field": SOLINAS31}
    given |= {"keys": [KEY], "signs": [1], **arguments}
    with pytest.raises(error, match=words):
        quantize_mask(**given)

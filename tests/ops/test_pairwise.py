"""Masks that pairs of clients share: exact, cancelling, and made of no more than their range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import oracles
import pyfed
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.errors import ArgumentError, DtypeError, PyfedError
from pyfed.ops import add_masks_
from runs import Run, runs_of, simd_level, simd_levels

RAW = bytes(range(32))
KEY = Key(RAW)
P = SOLINAS31.modulus
RUNS = pytest.mark.parametrize(("op", "run"), runs_of("add_masks_"))
VECTORS = Path(__file__).parents[1] / "vectors"
FOUND = [
    found
    for found in json.loads((VECTORS / "residue_rejections.json").read_text())["found"]
    if found["purpose"] == oracles.RESIDUES
]


def zeros(length: int, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(length, dtype=torch.int32, device=device)


@RUNS
def test_opposite_signs_cancel_in_the_sum_of_two_clients(op: str, run: Run) -> None:
    values = torch.tensor([[0, 1, P - 1] * 11, [5, P - 1, P - 1] * 11], dtype=torch.int32)
    first, second = values.clone().to(run.device)
    keys = [KEY.derive("a"), KEY.derive("b")]
    with run.active():
        add_masks_(first, [keys[0], keys[1]], [1, -1], SOLINAS31, start=9)
        add_masks_(second, [keys[1], keys[0]], [1, -1], SOLINAS31, start=9)
    assert not torch.equal(first.cpu(), values[0])
    assert ((first.cpu().long() + second.cpu()) % P).tolist() == (values.long().sum(0) % P).tolist()


@pytest.mark.parametrize(("op", "run"), runs_of("add_masks_", oracle=True))
def test_a_long_vector_equals_the_keystreams_of_openssl(op: str, run: Run) -> None:
    """Beyond the chunks of every thread, and from the middle of a block."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    length, first, stream = (2_003, 5, 3) if run.interpreted else (100_003, 2**32 - 9000, 2**32 - 1)
    keys, signs = [KEY.derive("openssl", i) for i in range(3)], [1, -1, -1]
    wanted, sure = np.full(length, P - 1, dtype=np.int64), np.ones(length, dtype=bool)
    domain = oracles.RESIDUES << 24 | oracles.FIELD_IDS[P] << 16
    nonce = b"".join(word.to_bytes(4, "little") for word in (first, 0, stream, domain))
    for key, sign in zip(keys, signs, strict=True):
        cipher = Cipher(algorithms.ChaCha20(key.reveal(), nonce), mode=None).encryptor()
        words = np.frombuffer(cipher.update(bytes(4 * (length + 3))), dtype=np.uint32)[3:]
        candidates = words & 0x7FFFFFFF
        wanted += sign * candidates.astype(np.int64)
        sure &= candidates < P
    rejected = np.flatnonzero(~sure)
    assert run.interpreted or len(rejected) > 3
    for i in rejected:
        where = 16 * first + 3 + int(i)
        found = [oracles.residue(k.reveal(), where, P, stream=stream) for k in keys]
        wanted[i] = P - 1 + sum(s * r for s, r in zip(signs, found, strict=True))
    got = torch.full((length,), P - 1, dtype=torch.int32, device=run.device)
    with run.active():
        add_masks_(got, keys, signs, SOLINAS31, stream, 16 * first + 3)
    assert np.array_equal(got.cpu().numpy(), wanted % P)


@pytest.mark.parametrize("sign", [1, -1])
@RUNS
def test_candidates_that_are_rejected_once_or_twice_are_drawn_again(
    op: str, run: Run, sign: int
) -> None:
    """At the first and the last word of a block, and in the first and later groups of blocks."""
    assert {found["retries"] for found in FOUND} == {1, 2}
    for found in FOUND:
        p, index = getattr(pyfed, found["field"]).modulus, found["index"]
        wanted = oracles.residue_attempts(RAW, index, p, stream=7)
        assert wanted == (found["value"], found["retries"])
        for before in (0, 1, 15, 40, 200, 300, 700):
            got = zeros(before + 33, run.device)
            with run.active():
                add_masks_(got, [KEY], [sign], getattr(pyfed, found["field"]), 7, index - before)
            assert int(got[before]) == sign * wanted[0] % p


@RUNS
def test_any_range_can_be_masked_in_any_parts(op: str, run: Run) -> None:
    keys, signs, length = [KEY.derive("p", i) for i in range(3)], [1, -1, 1], 700
    for field in (SOLINAS31, Field("t", 7)):
        whole = zeros(length, run.device)
        with run.active():
            add_masks_(whole, keys, signs, field, 5, 2**36 - length)
            for cut in (1, 16, 17, 255, 511, 699) if not run.interpreted else (17,):
                parts = zeros(cut, run.device), zeros(length - cut, run.device)
                add_masks_(parts[0], keys, signs, field, 5, 2**36 - length)
                add_masks_(parts[1], keys, signs, field, 5, 2**36 - length + cut)
                assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("sign", [1, -1])
@RUNS
def test_sums_of_many_masks_stay_exact(op: str, run: Run, sign: int) -> None:
    """All of one sign, on p - 1 and on 0, so that every partial sum comes near both ends."""
    few = run.interpreted or run.backend == "reference"
    keys = [KEY.derive("many", i) for i in range(12 if few else 300)]
    for field in (SOLINAS31, MERSENNE31, Field("t", 3)):
        p = field.modulus
        sums = [sum(oracles.residue(k.reveal(), i, p) for k in keys) for i in (0, 1)]
        for value in (p - 1, 0):
            got = torch.full((2,), value, dtype=torch.int32, device=run.device)
            with run.active():
                add_masks_(got, keys, [sign] * len(keys), field)
            assert got.tolist() == [(value + sign * total) % p for total in sums]


@RUNS
def test_sixteen_rejections_are_told_of_in_the_range_and_nowhere_else(op: str, run: Run) -> None:
    """Kernels make whole blocks: what lies outside of the range must not be reported."""
    field, stream, index = Field("test", 2**30 + 3), 11, 67_571
    with pytest.raises(ArithmeticError):
        oracles.residue(RAW, index, field.modulus, stream=stream)
    for start, length in ((index - 3, 3), (index + 1, 4), (index - 300, 300), (index + 1, 600)):
        got = zeros(length, run.device)
        with run.active():
            add_masks_(got, [KEY], [1], field, stream, start)
        assert int(got[-1]) == oracles.residue(RAW, start + length - 1, 2**30 + 3, stream=stream)
    for start, length in ((index, 1), (index - 2, 3), (index, 300), (index - 599, 600)):
        values = zeros(length, run.device)
        with pytest.raises(PyfedError, match=r"16 candidates"), run.active():
            add_masks_(values, [KEY], [1], field, stream, start)
        assert run.device != "cpu" or not values.any()  # on CUDA it is told of after the fact


@RUNS
def test_no_key_changes_nothing_but_the_residues_are_checked(op: str, run: Run) -> None:
    values = torch.tensor([0, 1, P - 1], dtype=torch.int32, device=run.device)
    with run.active():
        assert add_masks_(values, [], [], SOLINAS31) is values
    assert values.tolist() == [0, 1, P - 1]
    values[1] = P
    with pytest.raises(ArgumentError, match=r"outside \[0, "), run.active():
        add_masks_(values, [], [], SOLINAS31)


@pytest.mark.parametrize("place", [2047, 4095, 4096, 8191, 16_383, 16_384, 99_999])
@pytest.mark.parametrize("simd", simd_levels())
def test_a_bad_residue_far_behind_leaves_the_first_ones_as_they_were(simd: str, place: int) -> None:
    """At the ends of what a thread takes at a time too: 2048, 4096 or 8192 residues."""
    values = zeros(100_000)
    values[place] = -1
    told = rf"in residues 1 of 100000 .* \({place},\)"
    with simd_level(simd), pytest.raises(ArgumentError, match=told):
        add_masks_(values, [KEY], [1], SOLINAS31)
    assert int(values.count_nonzero()) == 1


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
    key, values = Key(RAW), zeros(40)
    if how == "explain":
        assert "cpu" in add_masks_.explain(values, [key, key], [1, 1], SOLINAS31)
    elif how == "raise":
        values[3] = -1
        with pytest.raises(ArgumentError):
            add_masks_(values, [key, key], [1, 1], SOLINAS31)
    else:
        add_masks_(values, [key, key], [1, -1], SOLINAS31)
        assert not values.any()
    assert len(made) == 1
    assert not made[0].any()
    assert key == KEY
    assert key.words().any()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"residues": torch.zeros(3)}, DtypeError, "residues has dtype torch.float32"),
        ({"residues": zeros(4).view(2, 2)}, ArgumentError, "residues has 2 dimensions"),
        ({"residues": zeros(1).expand(3)}, ArgumentError, "residues shows one number"),
        ({"keys": KEY}, DtypeError, "keys is Key; it must be a list"),
        ({"keys": [RAW]}, DtypeError, "key is bytes; it must be a pyfed.Key"),
        ({"keys": [KEY, KEY]}, ArgumentError, "signs has 1 elements; there are 2 keys"),
        ({"signs": torch.ones(1)}, DtypeError, "signs is Tensor; it must be a list"),
        ({"signs": [0]}, ArgumentError, r"signs\[0\] is 0; it must be 1 or -1"),
        ({"signs": [2]}, ArgumentError, r"signs\[0\] is 2; it must be"),
        ({"signs": [-2]}, ArgumentError, r"signs\[0\] is -2; it must be"),
        ({"signs": [1.0]}, DtypeError, r"signs\[0\] is float; it must be an int"),
        ({"field": P}, DtypeError, r"field is int; it must be a pyfed\.Field"),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296"),
        ({"stream": -1}, ArgumentError, "stream is -1"),
        ({"start": -1}, ArgumentError, "start is -1"),
        ({"start": 2**36 - 2}, ArgumentError, r"start \+ count is 68719476737.*another stream"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    given = {"residues": zeros(3), "keys": [KEY], "signs": [1], "field": SOLINAS31, **arguments}
    with pytest.raises(error, match=words):
        add_masks_(**given)

"""Checks and errors: what an error is, what its message says."""

from __future__ import annotations

import pytest
import torch

import pyfed
from pyfed import checks, errors
from pyfed.errors import ArgumentError, DtypeError, PyfedError


def test_errors_are_the_builtin_kinds_that_callers_expect() -> None:
    assert issubclass(errors.ArgumentError, ValueError)
    assert issubclass(errors.DtypeError, TypeError)
    assert issubclass(errors.BackendError, RuntimeError)
    names = ("Argument", "Dtype", "Backend", "Threshold", "Decode", "Protocol")
    assert all(issubclass(getattr(errors, f"{name}Error"), PyfedError) for name in names)


def test_errors_carry_what_their_handlers_need() -> None:
    assert errors.ThresholdError("few", missing={5, 2}, needed=7).missing == (2, 5)
    assert errors.ThresholdError("few", missing=[], needed=7).needed == 7
    assert errors.DecodeError("wrong", rows=[9, 1]).rows == (1, 9)
    error = errors.ProtocolError("stale", sender=4, phase="upload")
    assert (str(error), error.sender, error.phase) == ("stale", 4, "upload")


@pytest.mark.parametrize(
    ("word", "error", "text"),
    [
        (1, ArgumentError, r"op: a residue lies outside \[0, modulus\)$"),
        (2, ArgumentError, "op: a value is NaN or infinite$"),
        (4, PyfedError, "op: 16 candidates in a row for one residue were rejected$"),
        (8, ArgumentError, "op: a bit behind the last element of a packed mask is set$"),
        (16, ArgumentError, "op: a total does not fit in the bit planes$"),
        (32, ArgumentError, "op: a count or a weight lies outside its range$"),
        (64, ArgumentError, "op: the indices are not ascending and in range, or do not fit the"),
        (3, ArgumentError, "modulus.; a value is NaN or infinite$"),
        (10, ArgumentError, "op: a value is NaN or infinite; a bit behind the last"),
    ],
)
def test_each_bit_of_an_error_word_has_its_sentence(word: int, error: type, text: str) -> None:
    checks.raise_for("op", 0)
    with pytest.raises(error, match=text):
        checks.raise_for("op", word)


def test_every_error_bit_is_one_bit_of_its_own() -> None:
    names = ("BAD_RESIDUE", "NOT_FINITE", "ALL_REJECTED", "BAD_PADDING", "TOO_MANY", "BAD_COUNT")
    bits = [getattr(checks, name) for name in (*names, "BAD_PLACE")]
    assert bits == [1 << place for place in range(7)]


def test_all_rejected_is_no_fault_of_the_caller() -> None:
    with pytest.raises(PyfedError) as caught:
        checks.raise_for("op", checks.ALL_REJECTED)
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4, ArgumentError, r"op: count is 4; it must be in \[0, 4\)"),
        (-1, ArgumentError, "op: count is -1"),
        (True, DtypeError, "op: count is bool; it must be an int"),
        (1.0, DtypeError, "op: count is float; it must be an int"),
        (None, DtypeError, "op: count is NoneType"),
    ],
)
def test_integers_are_checked_by_type_and_range(value: object, error: type, text: str) -> None:
    checks.expect_int("op", "count", 3, 0, 4)
    with pytest.raises(error, match=text):
        checks.expect_int("op", "count", value, 0, 4)


def test_one_stream_has_two_to_the_36_indices() -> None:
    checks.expect_range("op", 2**36, 0)
    checks.expect_range("op", 0, 2**36)
    for start, count in ((1, 2**36), (2**36, 1), (2**36 + 1, 0)):
        with pytest.raises(ArgumentError, match="op: start"):
            checks.expect_range("op", start, count)


def test_every_power_of_two_scale_is_taken_and_nothing_near_it() -> None:
    for exponent in range(-100, 101):
        checks.expect_scale("op", 2.0**exponent)
        for near in (2.0**exponent * (1 + 2.0**-52), 2.0**exponent * (1 - 2.0**-53)):
            with pytest.raises(ArgumentError, match="power of two"):
                checks.expect_scale("op", near)
    checks.expect_scale("op", 8)


def test_tensors_must_share_a_device() -> None:
    here, there = torch.ones(1), torch.ones(1, device="meta")
    assert checks.expect_one_device("op", (here, 3, None)) == torch.device("cpu")
    with pytest.raises(ArgumentError, match="are on cpu, meta; they must be on one device"):
        checks.expect_one_device("op", (here, there))
    with pytest.raises(ArgumentError, match="are on none"):
        checks.expect_one_device("op", (3, None))


def test_check_has_nothing_to_tell_without_a_fault() -> None:
    assert pyfed.check() is None


@pytest.mark.gpu
def test_a_fault_on_cuda_is_told_once_by_check() -> None:
    bad = torch.tensor([[-1]], dtype=torch.int32, device="cuda")
    pyfed.ops.field_sum(bad, pyfed.SOLINAS31)
    with pytest.raises(ArgumentError, match="CUDA kernel on cuda:0: a residue lies outside"):
        pyfed.check()
    pyfed.check()

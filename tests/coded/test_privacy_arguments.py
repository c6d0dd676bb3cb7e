"""What the accounting of privacy refuses, and how it says it."""

from __future__ import annotations

import math

import pytest

import pyfed
from coded.privacy_ways import PUBLIC, WAYS
from pyfed.coded import privacy
from pyfed.coded.privacy import Release
from pyfed.errors import ArgumentError, DtypeError

NUMBERS = [math.nan, math.inf, -math.inf]


BAD = [
    *(({"rows": bad}, "rows") for bad in (0, -1, 2**31 + 1)),
    *(({"noise_std": bad}, "noise_std") for bad in (*NUMBERS, -1.0, 0.0)),
    *(({"record_norm": bad}, "record_norm") for bad in (*NUMBERS, -1.0, 0.0)),
    *(({"delta": bad}, "delta") for bad in (*NUMBERS, -1e-5, 0.0, 1.0, 2.0)),
    *(({"min_eigenvalue": bad}, "min_eigenvalue") for bad in (*NUMBERS, -1.0)),
    ({"kind": "fourier"}, "kind"),
    ({"kind": "rademacher"}, "secrecy"),
    ({"kind": "countsketch"}, "secrecy"),
    ({"secret": 1}, "secret"),
    ({"column_norm": 3.0}, "column_norm"),
    ({"columns": 2, "min_eigenvalue": 3.0}, "min_eigenvalue"),
    ({"noise_std": 0.0, "min_eigenvalue": 1.0}, "without noise"),
    ({"noise_std": 1e-200}, "range of floats"),
    ({"noise_std": 1e-4, "rows": 10**9}, "larger"),
    ({"secret": False}, "column_norm"),
    ({**PUBLIC, "noise_std": 0.0}, "noise_std"),
    ({**PUBLIC, "noise_std": 1e-9}, "larger"),
    ({**PUBLIC, "min_eigenvalue": 1.0}, "min_eigenvalue"),
    ({**PUBLIC, "column_norm": 1.0}, "column_norm"),
    ({"secret": False, "column_norm": -1.0}, "column_norm"),
    ({"secret": False, "column_norm": math.nan}, "column_norm"),
    ({**PUBLIC, "grid": 0.5}, "without columns"),
    ({"grid": 0.5}, "without columns"),
    ({"clients": 2}, "without columns"),
    ({"grid": 0.0, "columns": 3}, "grid"),
    ({"grid": math.nan, "columns": 3}, "grid"),
    ({"columns": 0}, "columns"),
    ({"columns": 3, "clients": 0}, "clients"),
    ({"columns": 20, "delta": 1e-22, **PUBLIC}, "finer grid"),
    ({"noise_std": 10.0, "grid": 4.0, "columns": 20}, "from 4 to"),
    ({"noise_std": 10.0, "grid": 1.0, "columns": 20, "clients": 7}, "from 4 to"),
    ({"noise_std": 10.0, "grid": 2.0**-18, "columns": 20}, "from 4 to"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=str)
def test_bad_values_are_refused_by_name(change: dict, named: str) -> None:
    given = {"rows": 100, "noise_std": 10.0, "record_norm": 1.0, "delta": 1e-5, **change}
    with pytest.raises(ArgumentError, match=named):
        privacy.epsilon(**given)
    if named in ("larger", "finer grid"):
        return  # what ε cannot be, δ can, and less noise than this cannot be asked for
    if "delta" not in change:
        del given["delta"]
        with pytest.raises(ArgumentError, match=named):
            privacy.delta(**given, epsilon=1.0)
    if "noise_std" not in change:
        given = {"delta": 1e-5, **given, "epsilon": 1.0}
        del given["noise_std"]
        with pytest.raises(ArgumentError, match=named):
            privacy.noise(**given)


@pytest.mark.parametrize("name", ["rows", "noise_std", "record_norm", "delta", "min_eigenvalue"])
@pytest.mark.parametrize("value", ["1", None, True, [1.0]])
def test_wrong_types_are_refused(name: str, value: object) -> None:
    given = {"rows": 100, "noise_std": 10.0, "record_norm": 1.0, "delta": 1e-5, name: value}
    with pytest.raises(DtypeError, match=name):
        privacy.epsilon(**given)


@pytest.mark.parametrize("bad", [*NUMBERS, -1.0])
def test_bad_epsilons_are_refused(bad: float) -> None:
    with pytest.raises(ArgumentError, match="epsilon"):
        privacy.delta(10, noise_std=1.0, record_norm=1.0, epsilon=bad)
    with pytest.raises(ArgumentError, match="epsilon"):
        privacy.composed_delta([Release(10, 1.0, 1.0)], bad)
    for epsilon in (bad, 0.0):
        with pytest.raises(ArgumentError, match="epsilon"):
            privacy.noise(10, epsilon=epsilon, delta=1e-5, record_norm=1.0)
        with pytest.raises(ArgumentError, match="epsilon"):
            privacy.statistics_noise(epsilon=epsilon, delta=1e-5, record_norm=1.0)


@pytest.mark.parametrize("way", WAYS[:5], ids=str)
def test_epsilon_that_no_noise_gives_is_refused(way: dict) -> None:
    with pytest.raises(ArgumentError, match="no noise"):
        privacy.noise(10**6, epsilon=1e-45, delta=1e-45, record_norm=2.0, **way)


def test_delta_below_what_sampling_takes_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no noise"):
        privacy.noise(100, epsilon=1.0, delta=1e-22, record_norm=1.0, **WAYS[-1])


def test_bad_releases_and_orders_are_refused() -> None:
    with pytest.raises(ArgumentError, match="empty"):
        privacy.composed_epsilon([], 1e-5)
    with pytest.raises(DtypeError, match=r"releases\[1\]"):
        privacy.composed_epsilon([Release(10, 1.0, 1.0), 3], 1e-5)  # type: ignore[list-item]
    for bad in (*NUMBERS, 0.0, 1.0):
        with pytest.raises(ArgumentError):
            privacy.composed_epsilon([Release(10, 1.0, 1.0)], bad)
        with pytest.raises(ArgumentError, match="order"):
            Release(10, 1.0, 1.0).renyi(min(bad, 1.0) if bad == 0.0 else bad)
    with pytest.raises(ArgumentError, match="samples"):
        privacy.column_norm(10, 0, pyfed.Key(bytes(32)))

"""What the mechanisms refuse, and how they say it."""

from __future__ import annotations

import numpy as np
import pytest

from pyfed.coded import incentive

MECHANISMS = (incentive.first_best, incentive.contract, incentive.stackelberg, incentive.uniform)
GOOD = {"types": [1.0, 2.0], "shares": [0.5, 0.5], "loss": 1.0, "noise": lambda e: 1 / e}


@pytest.mark.parametrize("make", MECHANISMS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"types": [2.0, 1.0]}, ValueError, "types is .2, 1.; it must be positive and strictly"),
        ({"types": [0.0, 1.0]}, ValueError, "types is .0, 1.; it must be positive"),
        ({"types": [1.0, 1.0]}, ValueError, "types is .1, 1."),
        ({"types": [1.0, np.nan]}, ValueError, "types is .*; it must be one or more finite"),
        ({"types": []}, ValueError, "types is "),
        ({"types": "ab"}, TypeError, "types is 'ab'; it must be a sequence of floats"),
        ({"shares": [0.5, 0.4]}, ValueError, "shares is .0.5, 0.4.; it must be positive, with sum"),
        ({"shares": [1.0, 0.0]}, ValueError, "shares is .1, 0."),
        ({"shares": [1.5, -0.5]}, ValueError, "shares is .1.5, -0.5."),
        ({"shares": [1.0]}, ValueError, "shares has 1 entries; it must have one for each of 2"),
        ({"loss": -1.0}, ValueError, "loss is -1.0; it must be positive"),
        ({"loss": "S"}, TypeError, "loss is str"),
        ({"loss": lambda s: -s}, ValueError, "loss goes from .*; it must rise"),
        ({"loss": np.sqrt}, ValueError, "loss is not convex about"),
        ({"loss": np.sqrt}, ValueError, r".* falls from [\d.]{9,} to [\d.]{9,}; .* in float64"),
        ({"loss": lambda s: np.inf}, ValueError, "loss is inf at"),
        ({"clients": 0}, ValueError, "clients is 0; it must be positive"),
        ({"clients": True}, TypeError, "clients is bool"),
        ({"price": np.inf}, ValueError, "price is inf; it must be finite"),
        ({"noise": 1.0}, TypeError, "noise is float; it must be a function of ε"),
        (
            {"noise": lambda e: e},
            ValueError,
            "noise goes from .*; it must be non-negative and fall",
        ),
        ({"noise": lambda e: 1.0}, ValueError, "noise goes from"),
        ({"noise": lambda e: 1 - e}, ValueError, "noise goes from"),
        ({"noise": lambda e: 200 - e - e * e / 1e3}, ValueError, "noise is not convex about"),
        ({"noise": lambda e: np.nan}, ValueError, "noise is nan at 0.01"),
        ({"bounds": (2.0, 1.0)}, ValueError, "bounds is .2.0, 1.0."),
        ({"bounds": (0.0, 1.0)}, ValueError, "bounds is 0.0; it must be positive"),
        ({"bounds": 3.0}, TypeError, "bounds is 3.0; it must be .least ε, greatest ε."),
    ],
)
def test_bad_input_is_named(make, change, error, message) -> None:
    with pytest.raises(error, match=f"^{make.__name__}: {message}"):
        make(**(GOOD | change))


def test_a_comparison_of_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="compare: menus holds a int"):
        incentive.compare(3)


def test_shares_to_judge_by_are_checked() -> None:
    menu = incentive.contract(**GOOD)
    with pytest.raises(ValueError, match=r"under: shares is .0.5, 0.6.; it must be non-negative"):
        menu.under([0.5, 0.6])

"""The table in the documentation is what its script finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from incentive_sweep import HEADER, LINES, row

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "incentives.md"


def documented() -> list[str]:
    text = PAGE.read_text().split("<!-- the lines of benchmarks/incentive_sweep.py -->\n")[1]
    return text.split("\n\n")[0].splitlines()


def test_a_line_of_the_documented_table_is_found_again() -> None:
    assert documented()[:2] == list(HEADER)
    assert documented()[2] == row(*LINES[0])


@pytest.mark.slow
def test_every_line_of_the_documented_table_is_found_again() -> None:
    assert documented()[2:] == [row(*line) for line in LINES]

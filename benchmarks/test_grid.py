"""The grid: which points it has, what they cost, and that nothing wrong is ever measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import baselines
import grid
import grid_plots
import grid_work
import pyfed
import pyfed.ops.verify
import ratios
import scaling
import verified
from contests import Contest, random_residues
from grid_points import FIELDS, LENGTHS, NUMBERS, WORKS, Point, points
from machine import describe
from pyfed import MERSENNE31, SOLINAS31
from pyfed.ops.random import PADDING, residues_reference
from verified import KEY, is_encoding, is_product, random_row, rounded

FOUR = Point("encode", "SOLINAS31", "half", 4, 2, 2, 1003)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_size_field_and_family_is_in_the_grid(device: str) -> None:
    found = list(points(device))
    for work in WORKS:
        sizes = {(p.field, p.shares, p.length) for p in found if p.work == work}
        assert sizes == set(itertools.product(FIELDS, NUMBERS, LENGTHS[device]))
    assert all(p.blocks >= 1 and p.threshold <= p.shares for p in found if p.family)
    assert len(found) == len(set(found))
    of_hundred = {(p.blocks, p.privacy) for p in found if p.family and p.shares == 100}
    assert of_hundred == {(50, 50), (20, 50), (1, 50), (80, 10)}


def test_what_is_left_out_says_why_and_the_rest_is_affordable() -> None:
    reasons = {p: p.left_out("cpu") for p in points("cpu")}
    assert all(r is None for p, r in reasons.items() if p.length <= 10**6 and p.shares <= 100)
    huge = Point("matmul", "SOLINAS31", "single", 1024, 1, 512, 10**8)
    assert reasons[huge] == "moves 615 GB, above the 4 GB that are allowed"
    slow = Point("masks", "SOLINAS31", "", 1024, 0, 0, 10**8)
    assert reasons[slow] == "a call would take about 137 s"
    assert max(p.bytes for p, r in reasons.items() if r is None) <= 4e9


@pytest.mark.parametrize(
    ("point", "macs", "chacha", "butterflies", "count"),
    [
        # 502 columns of 4 × 4 products, 2 random rows; a transform of 2 points and one of 4.
        (FOUR, 502 * 16, 4 * (2 * 502 + 1003), 502 * (1 + 4), 4 * (4 * 502 + 1003)),
        (replace(FOUR, field="MERSENNE31"), 8032, 8028, 0, 12044),
        (replace(FOUR, field="WIDE"), 16064, 12044, 5020, 4 * (8 * 502 + 1003)),
        (replace(FOUR, work="decode"), 502 * 8, 0, 0, 4 * (4 * 502 + 1003)),
        (replace(FOUR, work="matmul"), 502 * 16, 0, 0, 4 * 8 * 502),
        (Point("field_sum", "SOLINAS31", "", 4, 0, 0, 10), 0, 0, 0, 200),
        (Point("masks", "SOLINAS31", "", 4, 0, 0, 10), 0, 200, 0, 80),
        # Back 2 points and 1; forth 8, of which 5 are wanted.
        (replace(FOUR, shares=5, blocks=3, privacy=2), 8375, 4 * (670 + 1003), 335 * 8, 10712),
    ],
)
def test_work_is_counted(
    point: Point, macs: int, chacha: int, butterflies: int, count: int
) -> None:
    assert (point.macs, point.chacha, point.butterflies) == (macs, chacha, butterflies)
    assert point.bytes == count


def test_a_rival_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = Point("masks", "SOLINAS31", "", 4, 0, 0, 10)
    monkeypatch.setattr(baselines, "missing", lambda name: "flwr")
    assert grid_work.affordable(baselines.FLOWER, masks) == "flwr is not installed"
    monkeypatch.setattr(baselines, "missing", lambda name: None)
    assert grid_work.affordable(baselines.FLOWER, masks) is None
    many = replace(masks, length=10**8)
    assert (
        grid_work.affordable(baselines.FLOWER, many) == "0.5 G words, above the 0.2 G it is asked"
    )
    dense = replace(FOUR, work="matmul", length=10**7)
    told = grid_work.affordable(baselines.GALOIS, dense)
    assert told == "0.08 G multiply-adds, above the 0.005 G it is asked"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call once or a few times: what is measured here is nobody's claim."""
    monkeypatch.setattr(ratios, "ROUND_SECONDS", 1e-6)
    monkeypatch.setattr(grid, "ROUND_SECONDS", 1e-6)
    monkeypatch.setattr(scaling, "ROUNDS", 5)
    rates = {"copy_rate": 1e10, "mac_rate": 1e10}
    monkeypatch.setattr(grid.floors, "floor_of", lambda contest, device: {"seconds": 1e-6, **rates})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("quick")
def test_one_point_of_each_kind_is_measured_and_drawn(tmp_path: Path) -> None:
    path = grid.main(["--small", "--results", str(tmp_path)])
    assert path is not None
    summary = json.loads(path.read_text(encoding="utf-8"))
    rows = summary["rows"]
    assert {(row["work"], row["field"]) for row in rows} == set(itertools.product(WORKS, FIELDS))
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["ratios"] or (row["work"], row["field"]) == ("masks", "WIDE")
        assert all("is not installed" in reason for reason in row["not_measured"].values())
    assert {name for row in rows if row["work"] == "matmul" for name in row["ratios"]} >= {
        *(baselines.FLINT, baselines.GALOIS, baselines.WRAPPING, baselines.LIMBS)
    }
    assert len(summary["threads"]) == 4
    for name in ("roofline", "threads"):
        picture = path.with_name(f"{path.stem}-{name}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick")
def test_a_part_of_the_grid_keeps_the_other_points_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(numbers: list[str]) -> list[dict[str, Any]]:
        part = ["--works", "field_sum", "--fields", "SOLINAS31", "--lengths", "1003"]
        path = grid.main([*part, "--results", str(tmp_path), "--numbers", *numbers])
        assert path is not None
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return found

    first = rows(["4", "8"])
    second = rows(["8", "16"])
    old = len([row for row in first if row["shares"] == 4])
    assert old and second[:old] == first[:old]
    assert [row["shares"] for row in second] == [
        shares for shares in (4, 8, 16) for _ in range(old)
    ]
    monkeypatch.setattr(grid, "describe", lambda: describe() | {"versions": {}})
    with pytest.raises(SystemExit, match="other versions"):
        rows(["4"])


@pytest.mark.usefixtures("quick")
def test_a_wrong_result_ends_the_grid_before_it_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(point: Point, device: str) -> Contest:
        contest = grid_work.contest_of(point, device)

        def run() -> Any:
            output = contest.run()
            output.view(-1)[-1] ^= 1
            return output

        return replace(contest, run=run)

    monkeypatch.setattr(grid, "contest_of", spoiled)
    for work in ("encode", "decode", "matmul", "field_sum", "masks"):
        with pytest.raises(AssertionError, match=rf"^{work} SOLINAS31 .*the result is wrong"):
            grid.main(
                ["--small", "--works", work, "--fields", "SOLINAS31", "--results", str(tmp_path)]
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31], ids=lambda f: f.name)
def test_random_rows_of_openssl_are_those_of_the_reference(
    field: pyfed.Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1 << 17  # about eight candidates of SOLINAS31 are rejected
    expected = residues_reference(KEY.words(), 160, count, 3, 0, PADDING, field.modulus).int()
    assert torch.equal(random_row(3, 160, count, field), expected)
    monkeypatch.setattr(baselines, "missing", lambda name: "cryptography")
    assert torch.equal(random_row(3, 160, 50, field), expected[:50])


def shared(length: int = 205) -> tuple[torch.Tensor, torch.Tensor, pyfed.LagrangeCode]:
    code = pyfed.LagrangeCode(7, 4, 2)
    data = random_residues(SOLINAS31.modulus, length)
    return code.encode(data, KEY), data, code


@pytest.mark.parametrize("piece", [verified.PIECE, 128])
def test_every_wrong_share_is_found(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "PIECE", piece)
    shares, data, code = shared()
    assert is_encoding(shares, data, code)
    for row, column in ((0, 0), (6, 51), (3, 17), (2, 33)):
        wrong = shares.clone()
        wrong[row, column] ^= 1
        assert not is_encoding(wrong, data, code)
    assert not is_encoding(code.encode(data, KEY.derive("other")), data, code)
    assert not is_encoding(shares[:, :-1], data, code)
    assert not is_encoding(shares, data.flip(0), code)
    assert is_encoding(*shared(208))


def test_products_that_are_all_wrong_in_the_same_way_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Freivalds' check agrees with a kernel that doubles every product; two columns do not."""
    p, right = SOLINAS31.modulus, pyfed.ops.field_matmul

    def doubled(a: torch.Tensor, b: torch.Tensor, field: pyfed.Field) -> torch.Tensor:
        return (right(a, b, field).long() * 2 % p).int()

    a, b = random_residues(p, 5, 6), random_residues(p, 6, 9)
    monkeypatch.setattr(pyfed.ops.verify, "field_matmul", doubled)
    product = doubled(a, b, SOLINAS31)
    assert pyfed.ops.field_verify(a, b, product, SOLINAS31)
    assert not is_product(a, b, product, SOLINAS31)
    monkeypatch.undo()
    assert is_product(a, b, right(a, b, SOLINAS31), SOLINAS31)


def test_rounding_in_pieces_is_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "PIECE", 64)
    fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=3)
    values = verified.random_floats(150, "cpu")
    assert torch.equal(rounded(150, "cpu", fixed), fixed.encode(values, KEY))


def row(length: int, seconds: float, **changed: Any) -> dict[str, Any]:
    made = FOUR.summary() | {"length": length, "median": seconds, "backend": "cpu"}
    made |= {"macs": 10**9, "bytes": 10**8, "floor": {"copy_rate": 1e10, "mac_rate": 3e10}}
    return made | changed


def test_cost_is_compared_from_a_million_values_on() -> None:
    rows = [row(10**4, 1.0), row(10**6, 1e-3), row(10**8, 0.12), row(10**6, 9.0, shares=8)]
    (found,) = grid_plots.series(rows).values()
    assert found == {10**6: 1e-9, 10**8: 1.2e-9}
    assert grid_plots.deviation(found) == pytest.approx(1 / 11)


def test_pictures_are_drawn_where_there_is_something_to_show(tmp_path: Path) -> None:
    ratio = {"median": 1.8, "low": 1.7, "high": 1.9}
    machine = {"name": "some-cpu"}
    rows = [row(10**6, 1e-3), row(10**8, 0.12)]
    grid_plots.write_plots(
        {"machine": machine, "rows": rows, "threads": {"x": ratio}}, tmp_path / "some-cpu"
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"some-cpu-{kind}.png" for kind in ("roofline", "cost", "threads")}
    grid_plots.write_plots({"machine": machine, "rows": []}, tmp_path / "empty")
    assert names == {path.name for path in tmp_path.iterdir()}


def test_a_second_thread_is_compared_with_one(quick: None) -> None:
    before = torch.get_num_threads()
    found = scaling.second_thread(columns=4)
    assert {ratio.rounds for ratio in found.values()} == {5}
    assert torch.get_num_threads() == before
    seen: list[int] = []
    count: Callable[[], None] = lambda: seen.append(torch.get_num_threads())  # noqa: E731
    scaling.on_threads(2, count)()
    scaling.on_threads(1, count)()
    torch.set_num_threads(before)
    assert seen == [2, 1]

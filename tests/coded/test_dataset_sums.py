"""Sums of coded sets, in plain and in secret."""

from __future__ import annotations

import math

import pytest
import torch

import pyfed
from coded_problems import KEY, coded_of, encoded, on_grid, problem
from pyfed.coded import CodedDataset, simulate_coded
from pyfed.errors import ArgumentError, DtypeError, ThresholdError
from pyfed.ops import sketch_block
from pyfed.secagg import LightSecAgg, SecAggPlus, SecEA, SwiftAgg


def test_a_sum_of_coded_sets_is_the_set_of_all_records_under_matrices_side_by_side() -> None:
    given = problem()
    sets = [encoded(i, noise_std=0.0) for i in range(4)]
    total = CodedDataset.total(sets)
    blocks = [
        sketch_block(
            (0, 5), (0, 6), KEY.derive("client", i), "gaussian", shape=(5, 6), public=False
        )
        for i in range(4)
    ]
    g = torch.cat(blocks, 1).double()
    assert torch.allclose(total.x.double(), g @ torch.cat(given.x).double(), atol=1e-4)
    assert torch.allclose(total.y.double(), g @ torch.cat(given.y).double(), atol=1e-4)
    assert (total.clients, total.samples) == (4, 24)
    both = encoded(0, noise_std=3.0) + encoded(1, noise_std=4.0)
    assert both.noise_std == 5.0
    with pytest.raises(TypeError):
        sets[0] + 1


@pytest.mark.parametrize(
    "name", ["rows", "kind", "complement", "features", "outputs", "grid", "public"]
)
def test_sets_that_differ_do_not_add_up(name: str) -> None:
    x, y = torch.ones(5, 3), torch.ones(5, 2)
    other = {
        "rows": {"x": x[:4], "y": y[:4]},
        "kind": {"kind": "rademacher"},
        "complement": {"complement": True},
        "features": {"x": x[:, :2]},
        "outputs": {"y": y[:, :1]},
        "grid": {"grid": 0.5},
        "public": {"public": True},
    }[name]
    one = coded_of(x, y)
    two = coded_of(**({"x": x, "y": y, "sources": frozenset([bytes(7) + b"1"])} | other))
    with pytest.raises(ArgumentError, match=rf"sets\[1\] has {name} .* must agree in it"):
        CodedDataset.total([one, two])


def test_two_clients_with_one_key_are_found_out() -> None:
    with pytest.raises(ArgumentError, match="give every client a key of its own"):
        encoded(0, key=KEY) + encoded(1, key=KEY)
    assert (encoded(0, key=KEY) + encoded(1, key=KEY, stream=1)).clients == 2
    with pytest.raises(ArgumentError, match="give every client a key of its own"):
        encoded(0, key=7, public=True) + encoded(1, key=7, public=True)
    tag = next(iter(encoded(0, key=KEY).sources))
    assert tag not in KEY.reveal()


PROTOCOLS = {
    "lightsecagg": lambda n, fixed: LightSecAgg(4, privacy=1, dropouts=1, length=n, fixed=fixed),
    "swiftagg": lambda n, fixed: SwiftAgg(
        4, privacy=1, dropouts=1, blocks=1, length=n, fixed=fixed
    ),
    "secaggplus": lambda n, fixed: SecAggPlus(4, privacy=1, dropouts=1, length=n, fixed=fixed),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_sum_in_secret_is_the_plain_sum_up_to_a_step_of_each(name: str) -> None:
    sets = [encoded(i, noise_std=0.5, noise="gaussian") for i in range(4)]
    fixed = pyfed.FixedPoint(clip=32.0, bits=24, clients=4)
    result = simulate_coded(PROTOCOLS[name](25, fixed), sets, drop={"upload": {2}}, key=KEY)
    assert result.included == {0, 1, 3}
    plain = CodedDataset.total([sets[i] for i in (0, 1, 3)])
    assert float((result.coded.vector() - plain.vector()).abs().max()) <= 3.01 / fixed.scale
    assert result.coded.noise_variance == plain.noise_variance == 0.75
    assert result.coded.sources == plain.sources
    assert result.coded.samples == 18
    assert sum(result.traffic.values()) > 0
    assert set(result.seconds)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_sets_on_a_grid_are_summed_in_secret_to_the_bit(name: str) -> None:
    sets = [on_grid(i, 2.0**-4) for i in range(4)]
    fixed = pyfed.FixedPoint(clip=32.0, bits=16, clients=4)
    result = simulate_coded(PROTOCOLS[name](25, fixed), sets)
    assert torch.equal(result.coded.vector(), CodedDataset.total(sets).vector())
    assert result.coded.grid == 2.0**-4


def test_a_sum_in_secret_says_what_it_tells_of_a_record() -> None:
    fixed = pyfed.FixedPoint(clip=64.0, bits=20, clients=4)
    how = {"noise_std": 2.0, "record_norm": 9.0, "grid": 1 / fixed.scale}
    sets = [encoded(i, **how) for i in range(4)]
    result = simulate_coded(PROTOCOLS["lightsecagg"](25, fixed), sets, drop={"upload": {1}})
    plain = CodedDataset.total([sets[i] for i in (0, 2, 3)])
    assert torch.equal(result.coded.vector(), plain.vector())
    assert result.coded.release(1) == plain.release(1)
    assert plain.release(1).noise_std == pytest.approx(math.sqrt(8))


def test_rounding_that_would_undo_continuous_noise_is_refused() -> None:
    fixed = pyfed.FixedPoint(clip=32.0, bits=8, clients=4)  # steps of 1/4
    fine = encoded(0, noise_std=4.0, noise="gaussian")
    with pytest.raises(ArgumentError, match="rounding to nearest would undo"):
        fine.residues(fixed, None)
    assert len(fine.residues(fixed, KEY)) == 25
    coarse = encoded(0, noise_std=3.9, noise="gaussian")
    with pytest.raises(ArgumentError, match="at most 1/16 of the noise"):
        coarse.residues(fixed, KEY)
    both = CodedDataset.total([fine, encoded(1, noise_std=3.0, noise="gaussian")])
    with pytest.raises(ArgumentError, match=r"noise_std is 3\.53"):
        both.residues(fixed, KEY)
    assert len(encoded(0).residues(fixed, None)) == 25
    assert len(on_grid(0, 2.0**-5).residues(pyfed.FixedPoint(16.0, 10, 4), None)) == 25


def test_residues_add_up_modulo_the_prime_and_come_back() -> None:
    sets = [on_grid(i, 0.25) for i in range(3)]
    fixed = pyfed.FixedPoint(clip=128.0, bits=20, clients=3)
    residues = torch.stack([one.residues(fixed, KEY) for one in sets])
    summed = pyfed.ops.field_sum(residues, fixed.field)
    back = CodedDataset.alike("op", sets).from_residues(fixed, summed)
    plain = CodedDataset.total(sets)
    assert torch.equal(back.x, plain.x)
    assert torch.equal(back.y, plain.y)
    with pytest.raises(ArgumentError, match=r"values has 24 elements; .* = 25"):
        sets[0].from_vector(torch.zeros(24))


def test_a_secret_sum_that_would_be_wrong_is_refused_before_it_begins() -> None:
    sets = [encoded(i) for i in range(4)]
    make = PROTOCOLS["lightsecagg"]
    fixed = pyfed.FixedPoint(clip=32.0, bits=24, clients=4)
    with pytest.raises(ArgumentError, match=r"length 24; .* = 25 values"):
        simulate_coded(make(24, fixed), sets)
    small = pyfed.FixedPoint(clip=0.5, bits=24, clients=4)
    with pytest.raises(ArgumentError, match=r"coded_sets\[0\]: a coded value is .* raise clip"):
        simulate_coded(make(25, small), sets)
    coarse = pyfed.FixedPoint(clip=32.0, bits=8, clients=4)
    with pytest.raises(ArgumentError, match="the grid must be a multiple of the step"):
        simulate_coded(make(25, coarse), [on_grid(i, 2.0**-4) for i in range(4)])
    with pytest.raises(ArgumentError, match="3 updates are given; clients is 4"):
        simulate_coded(make(25, fixed), sets[:3])
    with pytest.raises(ThresholdError):
        simulate_coded(make(25, fixed), sets, drop={"upload": {1, 2}})
    with pytest.raises(DtypeError, match="protocol is object"):
        simulate_coded(object(), sets)
    secea = SecEA(clients=4, privacy=1, blocks=1, dim=2, fixed=fixed)
    with pytest.raises(ArgumentError, match="the protocol has length 2"):
        simulate_coded(secea, sets)


def test_no_sets_are_no_sum() -> None:
    with pytest.raises(ArgumentError, match="sets is empty"):
        CodedDataset.total([])
    with pytest.raises(DtypeError, match="must be a list of CodedDatasets"):
        CodedDataset.total([torch.ones(2)])

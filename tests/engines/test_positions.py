"""Where gradients stand in the streams of masks: by parameter, once, and never again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

pytest.importorskip("cryptography")
pytest.importorskip("msgpack")

from pyfed import FixedPoint, Key
from pyfed.engines.distributed import MaskedGradients, mask_gradients
from pyfed.engines.distributed.masking import Masking
from pyfed.engines.distributed.positions import Positions, Run, Spent
from pyfed.errors import ArgumentError, PyfedError
from pyfed.lazy import lazy

SIZES = (6, 0, 4, 10)  # the last parameter stands first: at 0, 10, 14, 14


def parameters() -> list[torch.Tensor]:
    return [nn.Parameter(torch.zeros(size)) for size in SIZES]


def test_parameters_stand_in_reverse_however_they_are_bucketed() -> None:
    given = parameters()
    one, empty, two, three = given
    positions = Positions(given)
    assert positions.total == 20
    assert positions.runs([three, two, empty, one]) == [Run(0, 0, 20)]
    assert positions.runs([one, two, three]) == [Run(0, 14, 6), Run(6, 10, 4), Run(10, 0, 10)]
    assert positions.runs([three, one]) == [Run(0, 0, 10), Run(10, 14, 6)]
    assert positions.runs([empty]) == []
    with pytest.raises(ArgumentError, match="does not know"):
        positions.runs([torch.zeros(6)])


def test_what_has_served_is_known() -> None:
    spent = Spent()
    spent.add([Run(0, 10, 4)])
    for start, size, served in ((0, 10, False), (14, 1, False), (13, 1, True), (0, 11, True)):
        assert spent.overlaps([Run(0, start, size)]) is served
    spent.clear()
    assert not spent.overlaps([Run(0, 10, 4)])


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def bucket(given: list[torch.Tensor], last: bool) -> Any:
    size = sum(p.numel() for p in given)
    values = torch.linspace(-1, 1, size)
    return SimpleNamespace(buffer=lambda: values, parameters=lambda: given, is_last=lambda: last)


def test_no_place_of_a_stream_serves_twice(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Module()
    model.one, model.two, model.three = (nn.Parameter(torch.zeros(n)) for n in (6, 4, 10))
    one, two, three = model.parameters()
    state = MaskedGradients(model)
    used: list[tuple[int, int]] = []
    masked = state._masking.masked

    def watched(values: torch.Tensor, runs: list[Run], step: int, bad: torch.Tensor) -> Any:
        used.extend((step, run.start + i) for run in runs for i in range(run.size))
        return masked(values, runs, step, bad)

    monkeypatch.setattr(state._masking, "masked", watched)
    steps = (
        ([three, two], False),
        ([one], True),
        ([three], False),  # other buckets in the next step
        ([two, one], True),
        ([three], False),  # a step that breaks off
        ([three, two], False),
        ([one], True),
    )
    for given, last in steps:
        mean = mask_gradients(state, bucket(given, last)).value()
        wanted = torch.linspace(-1, 1, mean.numel())
        assert float((mean - wanted).abs().max()) < 2.0**-18
    assert len(set(used)) == len(used) == 20 + 20 + 10 + 20
    assert state.step == 4
    short = bucket([one], True)
    short.buffer = lambda: torch.zeros(3)
    with pytest.raises(PyfedError, match="gradients must be dense"):
        mask_gradients(state, short)
    with pytest.raises(ArgumentError, match="step is 3 and was 4; it only goes up"):
        state.step = 3
    state.close()
    with pytest.raises(PyfedError, match="all 2\\^32 steps of these keys are used"):
        mask_gradients(state, bucket([one], True))


@pytest.mark.parametrize("arithmetic", ["field", "words"])
def test_tails_are_masked_and_tell_ranks_apart(arithmetic: str) -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=2)
    shared, modulus = Key(bytes(range(32))), 0
    sides = []
    for sign in (1, -1):
        side = Masking(fixed, [Key(shared.reveal())], [sign], Key.generate(), arithmetic, 20)
        modulus = side.modulus
        sides.append(side)

    def tail(side: int, step: int, start: int, bad: int = 0) -> torch.Tensor:
        runs, flag = [Run(0, start, 2)], torch.tensor(bad, dtype=torch.int32)
        return sides[side].masked(torch.zeros(2), runs, step, flag)[-2:].long()

    for step in (0, 7, 2**31, 2**32 - 1):
        both = tail(0, step, 4, bad=1) + tail(1, step, 4)
        assert (both % modulus).tolist() == [2 * step % modulus, 1]
    assert (tail(0, 7, 4) + tail(1, 8, 4))[0] % modulus != 15
    alone = [tail(0, step, start) - torch.tensor([step, 0]) for step in (5, 6) for start in (0, 2)]
    assert len({int(word) % modulus for pair in alone for word in pair}) == 8
    for empty in (0, 1):
        none = sides[empty].masked(torch.zeros(0), [], 5, torch.tensor(0).int())
        assert none.numel() == 2


def test_without_its_extra_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pyfed.engines import distributed\n"
        "distributed.all_reduce\n"
        "try: distributed.SecureSum\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'pip install "pyfed-kernels[secagg]"' in done.stdout, done.stderr


def test_no_extra_is_named_for_a_module_that_none_installs() -> None:
    find, names = lazy(
        "pyfed", {"Gone": "pyfed.not_there", "Key": "pyfed.keys"}, "flower", ["flwr"]
    )
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'pyfed.not_there'$"):
        find("Gone")
    with pytest.raises(AttributeError, match="module 'pyfed' has no attribute 'key'"):
        find("key")
    assert {"Gone", "Key"} <= set(names())


def test_without_a_group_it_says_what_to_call() -> None:
    with pytest.raises(ArgumentError, match=r"call torch\.distributed\.init_process_group first"):
        MaskedGradients(nn.Linear(2, 2))

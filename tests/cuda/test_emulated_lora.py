"""The CUDA kernels of dropout, means of lists and arenas, run on the CPU; see ``emulate.h``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import pyfed.ops
from agreement import SparseBytes, bits, broken, reference, shifted
from case import KEY, tensors_in, with_tensors
from contract import answers, fits, written_by
from pyfed.errors import ArgumentError
from pyfed.ops.dropout import philox_reference

OPS_HERE = ("counter_dropout", "weighted_mean", "segment_clip_", "bank_adamw_", "bank_sgd_")
EVERY_OP = pytest.mark.parametrize("op", OPS_HERE)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def check_every_case(
    emulated: Any, op: str, change: Callable[[torch.Tensor], torch.Tensor], *, large: bool
) -> None:
    """Every case gives the right outcome, in either order of threads."""
    for case, wanted in answers(op):
        for backwards in (False, True):
            if case.large and (backwards or not large):
                continue
            args = [with_tensors(a, change) for a in case.torch_args(op, "cpu")]
            found = tensors_in(emulated(op, *args, backwards=backwards))
            for got, right in zip([*found, *written_by(op, args)], wanted, strict=True):
                assert fits(got, right), case.name


@EVERY_OP
def test_cases_of_any_shape(emulated: Any, op: str) -> None:
    check_every_case(emulated, op, torch.clone, large=True)


@EVERY_OP
def test_misaligned_cases(emulated: Any, op: str) -> None:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return shifted(tensor) if tensor.numel() and tensor.is_floating_point() else tensor

    check_every_case(emulated, op, moved, large=False)


def test_dropout_with_counters_beyond_32_bits(emulated: Any) -> None:
    # Rows before the first do not exist; to the kernel they are 2^35 + 20 elements further back.
    features, before = 8, 2**32 + 3
    x, out = torch.ones(5, features), torch.empty(5, features)
    starts, streams, words = torch.tensor([-before, 5]), torch.tensor([2**62 + 5]), KEY.words("cpu")
    tables = (starts.data_ptr(), words.data_ptr(), streams.data_ptr())
    pointers = (*tables, 2**31, 2.0, out.data_ptr())
    assert emulated.launch("counter_dropout", x.data_ptr(), 1, 5, features, 1, *pointers) == 0
    element = torch.arange(5 * features) + before * features
    block, stream, mask = element // 4, streams[0].expand(len(element)), 2**32 - 1
    counter = (block & mask, block >> 32, stream & mask, stream >> 32)
    assert int(counter[1].min()) > 0
    word = torch.stack(philox_reference(counter, words)).gather(0, (element % 4)[None])[0]
    assert torch.equal(out, torch.where(word >= 2**31, 2.0, 0.0).view(5, features))


def test_starts_out_of_order_are_harmless(emulated: Any) -> None:
    # The glue tells of them; the kernel meets them on CUDA all the same, and stays in its memory.
    x, streams, words = torch.ones(7, 3), torch.arange(3), KEY.words("cpu")
    for listed in ([-1] * 4, [0, 2**62, -(2**62), 7], [7, 7, 7, 7], [0, 0, 0, 0]):
        starts, out = torch.tensor(listed), torch.empty(7, 3)
        pointers = (starts.data_ptr(), words.data_ptr(), streams.data_ptr(), 2**31, 2.0)
        emulated.launch("counter_dropout", x.data_ptr(), 1, 7, 3, 3, *pointers, out.data_ptr())
        assert bool(((out == 0) | (out == 2)).all())


def means_agree(emulated: Any, lists: list[list[torch.Tensor]], weights: list[float]) -> None:
    args = pyfed.ops.weighted_mean.prepare(lists, weights)
    for got, right in zip(
        emulated("weighted_mean", *args), reference("weighted_mean", *args), strict=True
    ):
        assert got.dtype == right.dtype
        assert torch.equal(bits(got), bits(right))


def test_tables_of_any_chunk_of_arguments(emulated: Any) -> None:
    # A launch takes 480 words here, and the table has clients + 5 for each of such small tensors.
    for clients, tensors in ((1, 80), (8, 37), (5, 96), (26, 31), (400, 7)):
        lists = [[torch.randn(1 + i % 5) for i in range(tensors)] for _ in range(clients)]
        means_agree(emulated, lists, [1.0 + c % 7 for c in range(clients)])


@pytest.mark.parametrize("moved", [(), (3,), range(5)], ids=["none", "one", "all"])
def test_misaligned_means_of_mixed_dtypes(emulated: Any, moved: tuple[int, ...]) -> None:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    sizes = (2048, 2047, 2049, 7, 8, 5000)
    lists = [[torch.randn(n).to(dtype) for n in sizes for dtype in dtypes] for _ in range(5)]
    for client in moved:
        lists[client] = [shifted(tensor) for tensor in lists[client]]
    means_agree(emulated, lists, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_mean_that_is_not_finite_is_told_of(emulated: Any, dtype: torch.dtype) -> None:
    good = [torch.randn(3000).to(dtype), torch.randn(9).to(dtype)]
    for place, element in ((0, 0), (0, 2999), (1, 8)):
        for value in (float("nan"), float("inf")):
            bad = [broken(t, element, value) if i == place else t for i, t in enumerate(good)]
            args = pyfed.ops.weighted_mean.prepare([good, bad, good])
            with pytest.raises(ArgumentError, match="NaN or infinite"):
                emulated("weighted_mean", *args)


def test_clipping_tells_of_a_norm_that_is_not_finite_and_leaves_its_row(emulated: Any) -> None:
    grads, limits = torch.randn(4, 5000), torch.full((4,), 0.5)
    for bad in (float("nan"), float("inf"), -float("inf")):
        wrong = broken(grads, 2 * 5000 + 4999, bad)
        held = wrong.clone()
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            emulated("segment_clip_", wrong, limits)
        assert torch.equal(bits(wrong[2]), bits(held[2]))
    most = torch.full((1, 3), 3e38)  # finite, and their norm is not
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        emulated("segment_clip_", most, limits[:1])


def test_clipping_gives_the_same_bits_again(emulated: Any) -> None:
    grads, limits = torch.randn(3, 70_001), torch.tensor([1.0, 2.0, 1e9])
    runs = []
    for backwards in (False, True):
        own = grads.clone()
        norms = emulated("segment_clip_", own, limits, backwards=backwards)
        runs.append((bits(norms), bits(own)))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    assert torch.equal(runs[0][1], bits(own))
    assert torch.equal(own[2], grads[2])


def test_more_than_2_to_31_elements(emulated: Any) -> None:
    # Only the last blocks run; they hold the last elements, of the last of two clients.
    length, tail = 2**30 + 33, 40
    emulated.control.last_blocks = 2
    arenas = [SparseBytes(4 * 2 * length) for _ in range(4)]
    ends = [arena.bytes[-4 * tail :].view(torch.float32) for arena in arenas]
    held = [torch.randn(tail), torch.randn(tail), torch.randn(tail), torch.rand(tail)]
    for end, values in zip(ends, held, strict=True):
        end.copy_(values)
    rows = [values[None] for values in held]
    args = pyfed.ops.bank_adamw_.prepare(*rows, torch.tensor([4]), 0.1)
    factors = args[-1].repeat(2, 1)
    at = [arena.at for arena in arenas]
    assert emulated.launch("bank_adamw", *at, 2, length, factors.data_ptr()) == 0
    reference("bank_adamw_", *args)
    for end, right in zip(ends, args, strict=False):
        assert torch.equal(bits(end), bits(right))
    args = pyfed.ops.bank_sgd_.prepare(*rows[:3], torch.tensor([4]), 0.1, 0.9)
    factors = args[-1].repeat(2, 1)
    assert emulated.launch("bank_sgd", *at[:3], 2, length, factors.data_ptr()) == 0
    reference("bank_sgd_", *args)
    for end, right in zip(ends, args[:3], strict=False):
        assert torch.equal(bits(end), bits(right))


def test_a_mean_of_more_than_2_to_31_elements(emulated: Any) -> None:
    size, tail = 2**31 + 24, 24
    sources, out = [SparseBytes(2 * size) for _ in range(2)], SparseBytes(2 * size)
    held = torch.randn(2, tail).to(torch.float16)
    for source, values in zip(sources, held, strict=True):
        source.bytes[-2 * tail :] = values.view(torch.uint8)
    words = [*(source.at for source in sources), out.at, size, 2, 0, 2**31]  # one chunk, the last
    table, room = torch.tensor(words), torch.empty(7, dtype=torch.int64)
    weights = torch.tensor([0.25, 0.75])
    numbers = (2, 1, 1, 2048, weights.data_ptr(), room.data_ptr())
    assert emulated.launch("weighted_mean", table.data_ptr(), *numbers) == 0
    (wanted,) = reference("weighted_mean", list(held), weights.to(torch.float64), 2)
    assert torch.equal(out.bytes[-2 * tail :].view(torch.float16), wanted)

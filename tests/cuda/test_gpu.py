"""What only a device can show: streams, graphs, no waiting, other devices, errors, leaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import pyfed.ops
from agreement import bits
from case import tensors_in, with_tensors
from cases import CASES, KEY, Case, residues
from pyfed import SOLINAS31, WIDE, LagrangeCode
from pyfed.errors import ArgumentError
from pyfed.op import OPS
from pyfed.self_check import results_of

pytestmark = pytest.mark.gpu
P = SOLINAS31.modulus
EVERY_OP = pytest.mark.parametrize("op", [op for op in OPS if "cuda" in OPS[op].kernels])


@pytest.fixture(autouse=True)
def compiled_kernels() -> Iterator[None]:
    with pyfed.use_backend("cuda"):
        yield


def largest_case(op: str) -> Case:
    """The case with the most work that the compiled kernels serve."""
    served = [
        case for case in CASES[op] if OPS[op].objection("cuda", case.torch_args(op, "cuda")) is None
    ]
    return served[-1]


def outcome(op: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The results of a call, and after them the arguments that the op writes."""
    return results_of(OPS[op], args)


def reference(op: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
    host = tuple(with_tensors(a, lambda t: t.to("cpu", copy=True)) for a in args)
    with pyfed.use_backend("reference"):
        return outcome(op, host)


def same(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    pairs = zip(got, wanted, strict=True)
    return all(torch.equal(bits(one.cpu()), bits(right)) for one, right in pairs)


def own(args: tuple[Any, ...], device: str = "cuda") -> tuple[Any, ...]:
    """The arguments with tensors of their own, the key's among them."""
    return tuple(with_tensors(a, lambda t: t.to(device, copy=True).contiguous()) for a in args)


def other_values(op: str, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Other valid values for the tensors: rows in reverse order; of some ops the first's alone."""
    first = tensors_in(args)
    changed = first[:1] if op in ("masked_mean", "counter_dropout") else first
    rows = 2 if op.startswith("mask_") and op not in ("mask_select", "mask_prune_") else 1
    return [
        t.flip(0).contiguous() if any(t is c for c in changed) and t.dim() >= rows else t.clone()
        for t in first
    ]


def filled(args: tuple[Any, ...], values: list[torch.Tensor]) -> tuple[Any, ...]:
    """The arguments with other tensors."""
    rest = iter(values)
    return tuple(with_tensors(a, lambda _: next(rest)) for a in args)


def fill(args: tuple[Any, ...], values: list[torch.Tensor]) -> None:
    """Write other values into the tensors."""
    for tensor, value in zip(tensors_in(args), values, strict=True):
        tensor.copy_(value)


@EVERY_OP
def test_the_current_device_stays(op: str) -> None:
    args = largest_case(op).torch_args(op, "cuda")
    wanted = reference(op, args)
    devices = range(torch.cuda.device_count())
    for current in devices:
        for used in devices:
            with torch.cuda.device(current):
                got = outcome(op, own(args, f"cuda:{used}"))
                assert torch.cuda.current_device() == current
            assert all(t.device.index == used for t in got)
            assert same(got, wanted)


@EVERY_OP
def test_kernels_run_on_the_current_stream(op: str) -> None:
    args = own(largest_case(op).torch_args(op, "cuda"))
    later = other_values(op, args)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # about 10 ms: work on another stream would come first
        fill(args, later)
        got = outcome(op, args)
    stream.synchronize()
    assert same(got, reference(op, filled(args, later)))


@EVERY_OP
def test_graphs_capture_and_replay(op: str) -> None:
    args = own(largest_case(op).torch_args(op, "cuda"))
    later = other_values(op, args)
    first = [t.clone() for t in tensors_in(args)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        OPS[op].torch_op(*args)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = outcome(op, args)
    for values in (first, later):
        for _ in range(2):  # what a replay leaves in scratch or output is nothing to the next
            fill(args, values)
            graph.replay()
        assert same(got, reference(op, filled(args, values)))


def test_a_split_product_replays() -> None:
    a, b = residues(P, 3, 20_000).cuda(), residues(P, 20_000, 20).cuda()
    run = OPS["field_matmul"].torch_op
    wanted = [run(a, b, P).cpu()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(a, b, P)
    for _ in range(3):
        graph.replay()
        assert same([got], wanted)


@EVERY_OP
def test_nothing_waits_for_the_device(op: str) -> None:
    args = largest_case(op).torch_args(op, "cuda")
    OPS[op].torch_op(*args)  # the first call makes the error word
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        OPS[op].torch_op(*args)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize(
    "shape", [(257, 128, 1), (300, 100, 30), (512, 256, 128), (1000, 333, 300), (4096, 2000, 96)]
)
@pytest.mark.parametrize("field", [SOLINAS31, WIDE], ids=("solinas31", "wide"))
def test_shares_by_transforms_are_those_of_a_cpu(shape: tuple[int, int, int], field: Any) -> None:
    code = LagrangeCode(*shape, field)
    moduli = [plane.modulus for plane in field.planes] if field is WIDE else [P]
    data = torch.stack([residues(p, 333 * shape[1] - 1) for p in moduli])
    data = data if field is WIDE else data[0]
    got = code.encode(data.cuda(), KEY, start_column=5)
    with pyfed.use_backend("cpu"):
        wanted = code.encode(data, KEY, start_column=5)
    assert same([got], [wanted])


def test_transforms_replay() -> None:
    code = LagrangeCode(512, 256, 128)
    data = [residues(P, 100 * 256) for _ in range(3)]
    room = data[0].cuda()
    matrix, words = code.encoding_matrix("cuda"), KEY.words("cuda")
    args = (room, matrix, words, P, 256, 0, 3, True)
    OPS["lagrange_encode"].torch_op(*args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = OPS["lagrange_encode"].torch_op(*args)
    for values in data:
        room.copy_(values)
        graph.replay()
        with pyfed.use_backend("cpu"):
            assert same([got], [code.encode(values, KEY, start_column=3)])


@pytest.mark.parametrize(
    "shape", [(9, 5, 2), (16, 8, 4), (64, 31, 16), (100, 40, 30), (300, 100, 30), (1000, 333, 300)]
)
@pytest.mark.parametrize("field", [SOLINAS31, WIDE], ids=("solinas31", "wide"))
def test_floats_to_shares_are_those_of_a_cpu(shape: tuple[int, int, int], field: Any) -> None:
    code, values = LagrangeCode(*shape, field), torch.randn(3333 * shape[1] - 1)
    where = {"stream": 3, "start_column": 5, "standard": True}
    rest = (KEY, field, code.blocks)
    matrix = code.encoding_matrix("cuda")
    got = pyfed.ops.quantize_encode(values.cuda(), 2.0**10, 3.0, matrix, *rest, **where)
    with pyfed.use_backend("cpu"):
        args = (values, 2.0**10, 3.0, code.encoding_matrix())
        wanted = pyfed.ops.quantize_encode(*args, *rest, **where)
    assert same([got], [wanted])


def test_errors_stick_until_they_are_read() -> None:
    bad = torch.full((3, 3), -1, dtype=torch.int32, device="cuda")
    good = torch.ones(3, 3, dtype=torch.int32, device="cuda")
    pyfed.ops.field_matmul(bad, good, SOLINAS31)
    pyfed.ops.field_matmul(good, good, SOLINAS31)
    with pytest.raises(ArgumentError, match="residue lies outside"):
        pyfed.check()
    pyfed.check()
    pyfed.ops.quantize(torch.full((5,), float("nan"), device="cuda"), 1.0, 1.0, SOLINAS31)
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        pyfed.check()
    for code in (LagrangeCode(5, 3, 1), LagrangeCode(40, 20, 9), LagrangeCode(300, 3, 1)):
        values = torch.full((2000,), float("inf"), device="cuda")
        how = (KEY, SOLINAS31, code.blocks, 0, 0, True)
        pyfed.ops.quantize_encode(values, 1.0, 1.0, code.encoding_matrix("cuda"), *how)
        with pytest.raises(ArgumentError, match="NaN or infinite"):
            pyfed.check()


@pytest.mark.parametrize("ties", ["index", "random", "magnitude", "score"])
@pytest.mark.parametrize("group", ["layer", "row", "column", "2:4", "4:8", "16x16", "256x256"])
def test_votes_on_a_layer_of_a_language_model(group: str, ties: str) -> None:
    rows, columns, clients = 1024, 2816, 64
    mask = torch.rand(clients, rows * columns, device="cuda") < 0.5
    mask[:, ::3], mask[:, 1::3] = False, True  # most votes are unanimous
    counts = pyfed.ops.mask_count(pyfed.ops.mask_pack(mask), rows * columns)
    assert same([counts], [mask.cpu().sum(0).to(torch.uint8)])
    weight = torch.randn(rows, columns, device="cuda").to(torch.float16)
    sparsity = None if ":" in group else 0.4
    how = {"score": weight.neg() if ties == "score" else None, "key": KEY}
    on_host = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in how.items()}
    pruned = weight.clone()
    chosen = pyfed.ops.mask_select(counts, (rows, columns), sparsity, group, ties, weight, **how)
    same_mask = pyfed.ops.mask_prune_(pruned, counts, sparsity, group, ties, clients=64, **how)
    with pyfed.use_backend("reference"):
        wanted = weight.cpu()
        mask_wanted = pyfed.ops.mask_prune_(
            *(wanted, counts.cpu(), sparsity, group, ties), clients=64, **on_host
        )
    assert same([chosen, same_mask, pruned], [mask_wanted, mask_wanted, wanted])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_of_16_bits_convert_as_on_the_host(dtype: torch.dtype) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    values = every[torch.isfinite(every)].to(torch.float32).to(dtype)
    given = torch.stack([values, values.flip(0)]).cuda()
    got = pyfed.ops.masked_mean(given, weights=[3, 7], denominator="all")
    with pyfed.use_backend("reference"):
        wanted = pyfed.ops.masked_mean(given.cpu(), weights=[3, 7], denominator="all")
        assert same([got], [wanted])
    votes = torch.arange(len(values), device="cuda").remainder(8).to(torch.uint8)
    weight, wanted = values.cuda().view(1, -1), values.clone().view(1, -1)
    pyfed.ops.mask_prune_(weight, votes, 0.25, clients=7)
    with pyfed.use_backend("reference"):
        pyfed.ops.mask_prune_(wanted, votes.cpu(), 0.25, clients=7)
    assert same([weight], [wanted])

"""Exact selection by votes: the k highest counts of every group, with an explicit rule for ties.

Within a group elements are ordered by count, highest first, then by tie key, lowest first, then by
index in the tile, row by row. The first k are pruned. Keys have 32 bits: none, a random word, the
magnitude of the weight, or a score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch

from pyfed import native
from pyfed.checks import BAD_COUNT, NOT_FINITE, report
from pyfed.keys import Key
from pyfed.op import Op
from pyfed.ops.counts import MOST_CLIENTS
from pyfed.ops.random import SELECTION, domain, words_reference
from pyfed.ops.selection_arguments import INDEX, KINDS, MAGNITUDE, RANDOM, prepare_selection
from pyfed.ops.tiles import expect_shape

CHUNK = 32_768
"""Elements of a tile that one thread block takes on CUDA."""


def order_bits(values: torch.Tensor, magnitude: bool) -> torch.Tensor:
    """Non-negative int64 numbers in the order of the finite floats, or of their magnitudes.

    The bits of a positive float ascend with it, those of a negative one descend; -0.0 equals 0.0.
    """
    bits = values.to(torch.float32).view(torch.int32).to(torch.int64)
    low = bits & 0x7FFFFFFF
    return low if magnitude else 2**31 + torch.where(bits < 0, -low, low)


def tie_keys(
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    size: int,
    ties: int,
    stream: int,
    device: torch.device,
) -> torch.Tensor:
    """The 32-bit tie key of every element: int64 (size,)."""
    if ties == RANDOM:
        assert key is not None
        return words_reference(key, 0, size, [0, stream, domain(SELECTION)])
    if ties == INDEX:
        return torch.zeros(size, dtype=torch.int64, device=device)
    assert tie is not None
    return order_bits(tie.reshape(-1), ties == MAGNITUDE)


def selected(
    counts: torch.Tensor,
    keys: torch.Tensor,
    rows: int,
    columns: int,
    tile_rows: int,
    tile_columns: int,
    k: int,
) -> torch.Tensor:
    """Bool (rows · columns,): True where an element is among the first k of its tile."""
    if counts.numel() == 0:
        return counts.new_empty(0, dtype=torch.bool)
    order = ((MOST_CLIENTS - counts.reshape(-1).to(torch.int64)) << 32) | keys
    down, across = rows // tile_rows, columns // tile_columns
    by_tile = order.view(down, tile_rows, across, tile_columns).transpose(1, 2)
    groups = by_tile.reshape(down * across, tile_rows * tile_columns)
    first = torch.sort(groups, dim=1, stable=True).indices[:, :k]
    chosen = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, first, True)
    back = chosen.view(down, across, tile_rows, tile_columns).transpose(1, 2)
    return back.reshape(-1)


def outside(counts: torch.Tensor, most: int) -> torch.Tensor:
    """Which counts lie outside [0, most]: bool, shaped like them."""
    return (counts < 0) | (counts.to(torch.int64) > most)


def check_votes(op: str, counts: torch.Tensor, most: int, *floats: torch.Tensor | None) -> None:
    """Report counts outside [0, most], and numbers that are not finite."""
    report(op, outside(counts, most), BAD_COUNT)
    for values in floats:
        if values is not None:
            report(op, ~torch.isfinite(values), NOT_FINITE)


def _mask_select_reference(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    shape: list[int],
    rows: int,
    columns: int,
    tile_rows: int,
    tile_columns: int,
    k: int,
    ties: int,
    stream: int,
) -> torch.Tensor:
    check_votes("mask_select", counts, MOST_CLIENTS, tie)
    keys = tie_keys(tie, key, counts.numel(), ties, stream, counts.device)
    return selected(counts, keys, rows, columns, tile_rows, tile_columns, k).view(shape)


def _mask_select_fake(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    shape: list[int],
    *rest: Any,
) -> torch.Tensor:
    return counts.new_empty(shape, dtype=torch.bool)


def describe_selection(op: str) -> Callable[[list[str], tuple[Any, ...]], str | None]:
    """Tells which argument of an op that selects holds bad values."""

    def told(names: list[str], args: tuple[Any, ...]) -> str | None:
        given = dict(zip(names, args, strict=True))
        factors = given.get("factors")
        most = MOST_CLIENTS if factors is None else len(factors) - 1
        bad = outside(given["counts"], most)
        found = [("counts", given["counts"], bad, f"outside [0, {most}]")]
        tie = "weight" if given["ties"] == MAGNITUDE else "score"
        for name, shown in (("weight", "weight"), ("tie", tie)):
            if given.get(name) is not None:
                bad = ~torch.isfinite(given[name])
                found.append((shown, given[name], bad, "NaN or infinite"))
        for name, values, bad, wrong in found:
            if bad.any():
                first = tuple(torch.nonzero(bad)[0].tolist())
                return (
                    f"{op}: in {name} {int(bad.sum())} of {bad.numel()} elements are {wrong}; the "
                    f"first is {values[first].item()} at index {first}"
                )
        return None

    return told


mask_select_op = Op(
    "mask_select(Tensor counts, Tensor? tie, Tensor? key, SymInt[] shape, SymInt rows,"
    " SymInt columns, SymInt tile_rows, SymInt tile_columns, SymInt k, int ties, int stream)"
    " -> Tensor",
    fake=_mask_select_fake,
    reference=_mask_select_reference,
    describe=describe_selection("mask_select"),
)


def native_votes(
    counts: torch.Tensor, tie: torch.Tensor | None, key: torch.Tensor | None
) -> tuple[object, ...]:
    """What compiled kernels take of them: counts, whether they are int32, tie, its kind, key."""
    tie = None if tie is None else tie.contiguous()
    kind = 0 if tie is None else KINDS[tie.dtype]
    key = None if key is None else key.contiguous()
    return counts.contiguous(), int(counts.dtype == torch.int32), tie, kind, key


def cuda_scratch(
    counts: torch.Tensor, rows: int, columns: int, tile_rows: int, tile_columns: int
) -> tuple[torch.Tensor, int]:
    """Memory between the passes of CUDA kernels, and its int64 words; tiles of one block need none.

    A tile takes 261 words and each of its chunks, of which there can be one more when the tile does
    not begin at a multiple of 16, another 129: at most an eighth of a byte an element in all.
    """
    size = tile_rows * tile_columns
    chunks = -(-(size + 30) // CHUNK)
    words = rows * columns // size * (261 + 129 * chunks) if size > CHUNK else 0
    return counts.new_empty(words, dtype=torch.int64), words


def cpu_scratch() -> torch.Tensor:
    """Scratch memory of the selecting kernels on CPU, of a fixed size for each thread."""
    size = native._C.selection_workspace(torch.get_num_threads())
    return torch.empty(size, dtype=torch.int32)


@mask_select_op.kernel("cpu", lambda counts, *rest: native.cpu_reason(counts))
def _mask_select_cpu(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    shape: list[int],
    *rest: int,
) -> torch.Tensor:
    out = counts.new_empty(shape, dtype=torch.bool)
    votes = native_votes(counts, tie, key)
    native.run("mask_select", counts.device, *votes, *rest, cpu_scratch(), out)
    return out


@mask_select_op.kernel("cuda", lambda counts, *rest: native.cuda_reason(counts))
def _mask_select_cuda(
    counts: torch.Tensor,
    tie: torch.Tensor | None,
    key: torch.Tensor | None,
    shape: list[int],
    *rest: int,
) -> torch.Tensor:
    out = counts.new_empty(shape, dtype=torch.bool)
    votes = native_votes(counts, tie, key)
    scratch = cuda_scratch(counts, *rest[:4])
    native.run("mask_select", counts.device, *votes, *rest, *scratch, out)
    return out


@mask_select_op.kernel("triton", lambda counts, *rest: native.triton_reason(counts))
def _mask_select_triton(counts: torch.Tensor, *rest: Any) -> Any:
    from pyfed.triton_kernels import selection as kernels

    with native.TritonReport("mask_select", counts.device) as word:
        return kernels.mask_select(counts, *rest, word)


@mask_select_op.public
def mask_select(
    counts: torch.Tensor,
    shape: Sequence[int],
    sparsity: float | Fraction | None,
    group: str = "layer",
    ties: str | None = None,
    weight: torch.Tensor | None = None,
    score: torch.Tensor | None = None,
    key: Key | None = None,
    stream: int = 0,
    rounding: str = "floor",
) -> tuple[Any, ...]:
    """Select, in every group, the k elements with the most votes, exactly and without a sort.

    With G(t) the elements of a group that have t votes or more, and t* = max{t : G(t) ≥ k}, all
    elements above t* are selected and k - G(t* + 1) of those at t*, by the rule for ties. The
    tensor is seen as the matrix (shape[0], all the rest), with one dimension as one row. Every
    backend gives the same elements.

    Args:
        counts: votes, uint8 or int32 in [0, 65535], of shape ``shape`` or flat; see
            :func:`mask_count`.
        shape: of the tensor that is pruned.
        sparsity: the part of every group that is selected, from 0 to 1; a float means its shortest
            decimal. None only for N:M groups, which fix it.
        group: ``"layer"``, ``"row"`` (one output), ``"column"`` (one input), ``"RxC"`` for blocks
            such as ``"4x64"``, or ``"N:M"``: of M consecutive elements of a row N are kept.
        ties: ``"index"``: the lowest index, row by row, goes first; ``"random"``: the lowest word
            of ChaCha20; ``"magnitude"``: the smallest weight; ``"score"``: the lowest score.
            Equal keys go by index. None: score or random where a score or a key is given, else
            magnitude in columns, else index.
        weight: float32, float16 or bfloat16 of shape ``shape``, for ties by magnitude.
        score: the same, for ties by score.
        key: for random ties: element i takes word i of its stream for selections.
        stream: number of the tensor, so that equal tensors get different words.
        rounding: of k = sparsity · (elements of a group): ``"floor"``, ``"nearest"`` (halves go
            up), ``"ceil"``.

    Returns:
        bool tensor of shape ``shape``: True is pruned.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes do not fit, the group does not divide the matrix, the sparsity is out
            of range, what a rule for ties needs is missing, a count is out of range, or a weight
            or score is not finite (on CUDA values are told of by :func:`pyfed.check`).

    Example:
        >>> import torch, pyfed
        >>> votes = torch.tensor([[3, 1, 2, 2], [0, 2, 2, 1]], dtype=torch.uint8)
        >>> pyfed.ops.mask_select(votes, (2, 4), 0.5, group="row")
        tensor([[ True, False,  True, False],
                [False,  True,  True, False]])

    Source: the selection of FedPrLLM (Guo et al., arXiv 2505.13547), with the rule for ties made
    explicit.
    """
    dims = expect_shape("mask_select", shape)
    layout = group, sparsity, rounding
    tie, words, *rest = prepare_selection(
        *("mask_select", counts, dims, layout, ties, weight, score, key, stream)
    )
    return counts, tie, words, list(dims), *rest

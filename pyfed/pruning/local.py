"""A client's masks: the lowest scores of every group, block by block."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from pyfed.checks import expect_int, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.selection import mask_select
from pyfed.ops.selection_arguments import FLOATS
from pyfed.pruning.calibration import Calibration
from pyfed.pruning.layers import matrix_of, module_of, prunable_layers
from pyfed.pruning.plan import MOST_CLIENTS, PrunableLayer
from pyfed.pruning.samples import Samples
from pyfed.pruning.scores import (
    expect_positive,
    expect_power,
    magnitude_scores,
    ria_scores,
    sparsegpt_scores,
    wanda_scores,
)

SCORES = ("magnitude", "wanda", "ria", "sparsegpt")


def local_mask(
    scores: torch.Tensor,
    sparsity: float | Fraction | None = 0.5,
    group: str = "row",
    rounding: str = "floor",
) -> torch.Tensor:
    """Choose the lowest scores of every group; equal ones by their index.

    Args:
        scores: float32 (out, in); finite.
        sparsity: the part of each group that is pruned, exact as in :func:`pyfed.ops.mask_select`.
        group: ``"layer"``, ``"row"``, ``"column"``, ``"RxC"`` or ``"N:M"``.
        rounding: ``"floor"``, ``"nearest"`` or ``"ceil"``.

    Returns:
        bool (out, in), True = prune.

    Raises:
        DtypeError, ArgumentError: as for :func:`pyfed.ops.mask_select`.

    Example:
        >>> import torch
        >>> from pyfed.pruning import local_mask
        >>> local_mask(torch.tensor([[3.0, 1.0, 2.0, 0.5]]))
        tensor([[False,  True, False,  True]])
    """
    expect_tensor("local_mask", "scores", scores, torch.float32, 2)
    # With no votes all counts are equal, and the tie rule alone decides: exact, and no sort.
    none = torch.zeros(scores.numel(), dtype=torch.uint8, device=scores.device)
    return mask_select(
        none, tuple(scores.shape), sparsity, group, "score", score=scores, rounding=rounding
    )


@dataclass(frozen=True)
class Verdict:
    """What becomes of a layer: W·(1 - M), and with counts W·(1 - M)·(clients - counts)/clients.

    Args:
        mask: bool (out, in), True = prune.
        counts: uint8 or int32 (out, in), how many clients voted to prune, from 0 to ``clients``;
            None: survivors keep their values.
        clients: how many clients voted; needed with counts.

    Raises:
        DtypeError: an argument has a wrong type or dtype.
        ArgumentError: shapes differ, ``clients`` is missing, or a count is out of range.

    Example:
        >>> import torch
        >>> from pyfed.pruning import Verdict
        >>> counts = torch.tensor([[2, 1], [0, 2]], dtype=torch.uint8)
        >>> Verdict(counts == 2, counts, clients=2).apply_(torch.ones(2, 2))
        tensor([[0.0000, 0.5000],
                [1.0000, 0.0000]])
    """

    mask: torch.Tensor
    counts: torch.Tensor | None = None
    clients: int | None = None

    def __post_init__(self) -> None:
        expect_tensor("Verdict", "mask", self.mask, torch.bool, 2)
        if self.clients is not None:
            expect_int("Verdict", "clients", self.clients, 1, MOST_CLIENTS + 1)
        if self.counts is None:
            return
        expect_tensor("Verdict", "counts", self.counts, (torch.uint8, torch.int32))
        if self.counts.shape != self.mask.shape:
            raise ArgumentError(
                f"Verdict: counts has shape {tuple(self.counts.shape)}; it must be that of mask, "
                f"{tuple(self.mask.shape)}"
            )
        if self.clients is None:
            raise ArgumentError("Verdict: clients is None; counts are of so many clients: say it")
        if self.counts.numel():
            low, high = (int(end) for end in self.counts.aminmax())
            if low < 0 or high > self.clients:
                raise ArgumentError(
                    f"Verdict: counts are from {low} to {high}; they must be in "
                    f"[0, {self.clients}], up to clients"
                )

    def apply_(self, matrix: torch.Tensor) -> torch.Tensor:
        """Prune and scale a matrix in place; what is pruned becomes +0.

        With counts every call shrinks the survivors again.

        Args:
            matrix: float32, float16 or bfloat16 (out, in); a parameter inside of
                ``torch.no_grad()`` only.

        Returns:
            The matrix.

        Raises:
            DtypeError, ArgumentError: the matrix has a wrong type or shape, or requires a gradient.
        """
        expect_tensor("Verdict.apply_", "matrix", matrix, FLOATS, 2)
        if matrix.shape != self.mask.shape:
            raise ArgumentError(
                f"Verdict.apply_: matrix has shape {tuple(matrix.shape)}; the mask has "
                f"{tuple(self.mask.shape)}"
            )
        if matrix.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(
                "Verdict.apply_: matrix requires a gradient; call this inside of torch.no_grad()"
            )
        mask = self.mask.to(matrix.device)
        if self.counts is not None:
            assert self.clients is not None
            # The same two roundings as in pyfed.ops.mask_prune_.
            factors = torch.arange(self.clients, -1, -1).to(torch.float32) / self.clients
            by_count = factors.to(matrix.device)[self.counts.to(matrix.device, torch.int32)]
            matrix.copy_(matrix.to(torch.float32) * by_count)
        return matrix.masked_fill_(mask, 0)


Decided = Mapping[str, Verdict | torch.Tensor]
"""Layer → what becomes of it; a bool mask (out, in) stands for ``Verdict(mask)``."""


def local_votes(
    model: nn.Module,
    samples: torch.Tensor | Mapping[str, torch.Tensor] | None,
    sparsity: float | Fraction | None = 0.5,
    score: str = "wanda",
    group: str = "row",
    rounding: str = "floor",
    *,
    max_length: int = 2048,
    truncate: bool = False,
    batch_size: int = 8,
    power: float = 0.5,
    damping: float = 0.01,
    blocks: str | None = None,
    skip: Collection[str] = (),
) -> Generator[dict[str, torch.Tensor], Decided | None, None]:
    """Calibrate a model on a client's samples and vote, block by block.

    Each block is scored with the inputs that it gets from the blocks before it when those are
    pruned: by their votes, or by what is sent into the generator (the decision of a server)
    before the next block. The model itself is never changed; while the generator waits, it may be
    used.

    Args:
        model: see :func:`prunable_layers`; weights float32, float16 or bfloat16, in any mode.
        samples: int64 (count, length), or a mapping with ``input_ids`` and ``attention_mask``;
            padding does not count. Not needed for the magnitude score.
        sparsity: the part of each group that is voted on.
        score: ``"magnitude"``, ``"wanda"``, ``"ria"`` or ``"sparsegpt"``.
        group: what scores are compared in.
        rounding: of the number of votes in a group.
        max_length: the most tokens of a sample.
        truncate: cut longer samples off; otherwise they are refused.
        batch_size: how many samples are run at once; scores depend on it by rounding alone.
        power: for ``"ria"``.
        damping: for ``"sparsegpt"``.
        blocks: dotted name of the list of blocks; None finds it.
        skip: patterns of layers that are left out.

    Yields:
        For each block {layer: bool (out, in), True = prune}; takes a verdict for each of these
        layers, or None.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, or the model cannot be calibrated block by
            block; when the generator is first run.

    Example:
        >>> import torch
        >>> from pyfed.pruning import local_votes
        >>> model = torch.nn.Module()
        >>> model.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(2)])
        >>> for masks in local_votes(model, None, score="magnitude"):
        ...     print({name: int(mask.sum()) for name, mask in masks.items()})
        {'blocks.0': 8}
        {'blocks.1': 8}
    """
    layers = prunable_layers(model, blocks, skip)
    expect_score("local_votes", score, power, damping)
    expect_int("local_votes", "batch_size", batch_size, 1, 2**31)
    _expect_finite(model, layers)
    calibration = None
    if score != "magnitude":
        if samples is None:
            raise ArgumentError(f"local_votes: samples is None; score {score!r} needs them")
        checked = Samples(samples, max_length, truncate)
        calibration = Calibration(model, layers, checked, batch_size, blocks)
    last = layers[-1].block
    for block in range(last + 1):
        members = [layer for layer in layers if layer.block == block]
        names = [layer.name for layer in members]
        found = calibration.statistics(block, names, score == "sparsegpt") if calibration else {}
        masks = {}
        for layer in members:
            matrix = matrix_of(module_of(model, layer))
            scores = _scores(score, matrix, found.pop(layer.name, None), power, damping)
            masks[layer.name] = local_mask(scores, sparsity, group, rounding)
        decided = yield masks
        if calibration is not None and block < last:
            verdicts = _verdicts(members, masks if decided is None else decided)
            weights = {name: matrix_of(model.get_submodule(name)).clone() for name in names}
            for name, matrix in weights.items():
                verdicts[name].apply_(matrix)
            calibration.advance(block, weights)


def expect_score(op: str, score: object, power: object, damping: object) -> None:
    """Raise unless there is such a score, and its numbers are in range."""
    if score not in SCORES:
        raise ArgumentError(f"{op}: score is {score!r}; it must be one of {', '.join(SCORES)}")
    expect_power(op, power)
    expect_positive(op, "damping", damping)


def _expect_finite(model: nn.Module, layers: Sequence[PrunableLayer]) -> None:
    """Raise where a weight is not finite, by its layer: later it would show in another place."""
    for layer in layers:
        matrix = matrix_of(module_of(model, layer))
        bad = int((~torch.isfinite(matrix)).sum())
        if bad:
            raise ArgumentError(
                f"local_votes: in the weight of {layer.name} {bad} of {matrix.numel()} elements "
                "are NaN or infinite; all must be finite"
            )


def _scores(
    score: str, matrix: torch.Tensor, found: torch.Tensor | None, power: float, damping: float
) -> torch.Tensor:
    if found is None:
        return magnitude_scores(matrix)
    if score == "wanda":
        return wanda_scores(matrix, found)
    if score == "ria":
        return ria_scores(matrix, found, power)
    return sparsegpt_scores(matrix, found, damping)


def _verdicts(members: Sequence[PrunableLayer], decided: object) -> dict[str, Verdict]:
    """What was sent, as a verdict for each layer of a block; raises unless it fits."""
    if not isinstance(decided, Mapping):
        kind = type(decided).__name__
        raise DtypeError(f"local_votes: {kind} was sent; it must map layers to masks")
    wanted = {layer.name: layer.shape for layer in members}
    if set(decided) != set(wanted):
        raise ArgumentError(
            f"local_votes: decisions on {sorted(map(str, decided))} were sent; they must be on "
            f"{sorted(wanted)}"
        )
    verdicts = {}
    for name, value in decided.items():
        mask = value.mask if isinstance(value, Verdict) else value
        expect_tensor("local_votes", f"the mask of {name}", mask, torch.bool, 2)
        if tuple(mask.shape) != wanted[name]:
            raise ArgumentError(
                f"local_votes: the mask of {name} has shape {tuple(mask.shape)}; it must "
                f"be {wanted[name]}"
            )
        verdicts[name] = value if isinstance(value, Verdict) else Verdict(mask)
    return verdicts

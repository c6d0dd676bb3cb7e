"""Calls that hold a bad value each, made from good ones: what every op must refuse.

A maker takes the op's arguments by name and gives the changed ones, with a pattern that both
messages match: that of an op on the CPU, and that of ``pyfed.check`` for a kernel on CUDA.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from case import with_tensors
from pyfed.fields import plane_moduli
from pyfed.op import OPS

Args = dict[str, Any]
Bad = Iterator[tuple[Args, str]]
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))


def _with(args: Args, name: str, place: int, value: float | bool) -> Args:
    """A copy of the arguments, with one element of a tensor changed."""
    changed = args[name].clone()
    changed.view(-1)[place] = value
    return {**args, name: changed}


def _spots(t: torch.Tensor) -> tuple[int, int, int]:
    return 0, t.numel() // 2, t.numel() - 1


def _each(args: Args, name: str, values: tuple[float, ...], words: str) -> Bad:
    """Bad values at the first, middle and last place of a tensor."""
    t = args.get(name)
    if isinstance(t, torch.Tensor) and t.numel():
        for number, value in enumerate(values):
            yield _with(args, name, _spots(t)[number % 3], value), words


def _residues_and_floats(args: Args) -> Bad:
    """A residue outside the field, or a float that is not finite, in any tensor."""
    modulus = max(plane_moduli(args["modulus"]))  # which is a residue of no plane
    for name, value in args.items():
        if not isinstance(value, torch.Tensor) or name == "key":
            continue
        if value.is_floating_point():
            yield from _each(args, name, NOT_FINITE, "NaN or infinite")
        else:
            yield from _each(args, name, (modulus, -1, -(2**31)), r"outside \[0, ")


def _masked(args: Args) -> Bad:
    modulus = max(plane_moduli(args["modulus"]))
    yield from _each(args, "residues", (modulus, -1, -(2**31)), r"outside \[0, ")


def _uploaded(args: Args) -> Bad:
    yield from _each(args, "values", NOT_FINITE, "NaN or infinite")


def _padding(args: Args, name: str, length: int) -> Bad:
    """Each bit behind the last element, in the first, a middle or the last row."""
    packed = args[name]
    if packed is None or length % 8 == 0 or packed.numel() == 0:
        return
    rows = packed.view(-1, packed.shape[-1])
    for bit in range(length % 8, 8):
        changed = rows.clone()
        changed[(0, rows.shape[0] // 2, -1)[bit % 3], -1] |= 1 << bit
        yield {**args, name: changed.view(packed.shape)}, "bit.*behind"


def _packed(args: Args) -> Bad:
    yield from _padding(args, "packed", args["length"])


def _planes(args: Args) -> Bad:
    yield from _padding(args, "planes", args["length"])


def _added(args: Args) -> Bad:
    """Padding, and one total that is too large by one, at the first and the last element."""
    yield from _packed(args)
    yield from _planes(args)
    planes, packed, length = args["planes"], args["packed"], args["length"]
    if packed.shape[0] == 0 or args["out_planes"] > planes.shape[0] or length == 0:
        return
    for element in (0, length - 1):
        byte, bit = element // 8, 1 << element % 8
        full, others = planes.clone(), packed.clone()
        others[:, byte] &= 255 - bit
        others[-1, byte] |= bit
        full[: args["out_planes"], byte] |= bit
        yield {**args, "planes": full, "packed": others}, "not fit in"


def _votes(args: Args) -> Bad:
    counts, factors = args["counts"], args.get("factors")
    most = 65_535 if factors is None else len(factors) - 1
    words = "outside"
    if counts.dtype == torch.int32:
        yield from _each(args, "counts", (most + 1, -1, -(2**31), 2**31 - 1), words)
    elif most < 255:
        yield from _each(args, "counts", (most + 1, 255, most + 1), words)
    for name in ("tie", "weight"):
        yield from _each(args, name, NOT_FINITE, "NaN or infinite")


def _mean(args: Args) -> Bad:
    values, masks, weights = args["values"], args["masks"], args["weights"]
    length = torch.Size(args["shape"]).numel()
    if masks is not None:
        yield from _padding(args, "masks", length)
        if args["form"] == 1 and masks.numel():  # one value too few, one too many
            yield _with(args, "masks", 0, int(masks.view(-1)[0]) ^ 1), "values"
            yield {**args, "values": torch.cat([values, values.new_ones(1)])}, "values"
            if values.numel():
                yield {**args, "values": values[:-1]}, "values"
    if weights is not None:
        yield from _each(args, "weights", (-1, 2**24, -(2**31)), "weight")
    if args["form"] == 3:
        yield from _each(args, "places", (length, -1, -(2**63), 2**62, length), "ascending")
        for first, last in itertools.pairwise(args["starts"].tolist()):
            if last - first > 1:
                equal = _with(args, "places", first + 1, int(args["places"][first]))
                yield equal, "ascending"
    light = weights is not None and not weights.any()
    if args["min_votes"] > 1 or light:  # a value may not count; tests/ops/test_means.py asks
        return
    if values.numel() == 0:
        return
    if args["form"] == 0 and masks is not None:
        for client, element in ((0, 0), (values.shape[0] - 1, length - 1)):
            kept = masks.clone()
            kept[client, element // 8] |= 1 << element % 8
            place = client * length + element
            yield _with({**args, "masks": kept}, "values", place, float("nan")), "NaN or infinite"
    else:
        yield from _each(args, "values", NOT_FINITE, "NaN or infinite")


def _starts(args: Args) -> Bad:
    """Rows that belong to nobody, to two clients, or to clients out of order."""
    for place in (0, -1):
        for value in (-1, int(args["starts"][-1]) + 1, 2**62):
            if value != int(args["starts"][place]):
                yield _with(args, "starts", place, value), "ascending"
    if len(args["starts"]) > 2:
        yield _with(args, "starts", 1, int(args["starts"][-1]) + 1), "ascending"
        yield _with(args, "starts", 1, -1), "ascending"


def _merged(args: Args) -> Bad:
    for name in ("a", "b", "scale"):
        yield from _each(args, name, NOT_FINITE, "NaN or infinite")


def _averaged(args: Args) -> Bad:
    """In the first, a middle and the last tensor."""
    yield from _each(args, "weights", NOT_FINITE, "NaN or infinite")
    tensors = args["tensors"]
    for number, place in enumerate((0, len(tensors) // 2, len(tensors) - 1)):
        if tensors[place].numel():
            changed = _with({"t": tensors[place]}, "t", -1, NOT_FINITE[number])["t"]
            others = [changed if i == place else t for i, t in enumerate(tensors)]
            yield {**args, "tensors": others}, "NaN or infinite"


def _clipped(args: Args) -> Bad:
    yield from _each(args, "grads", NOT_FINITE, "NaN or infinite")
    yield from _each(args, "max_norm", (0.0, -1.0, float("nan")), "not more than 0|its range")


def _stepped(args: Args) -> Bad:
    yield from _each(args, "factors", NOT_FINITE, "NaN")


def _sketched(args: Args) -> Bad:
    yield from _each(args, "x", NOT_FINITE, "NaN or infinite")
    if args["starts"] is not None:
        yield from _starts(args)


_MAKERS: dict[str, Callable[[Args], Bad]] = {
    "add_masks_": _masked,
    "quantize_mask": _uploaded,
    "mask_pack": lambda args: iter(()),  # every bool is good
    "mask_unpack": _packed,
    "mask_popcount": _packed,
    "mask_count": _packed,
    "mask_add": _added,
    "mask_totals": _planes,
    "mask_select": _votes,
    "mask_prune_": _votes,
    "masked_mean": _mean,
    "counter_dropout": _starts,
    "lora_merge_": _merged,
    "lora_linear": _starts,
    "lora_linear_backward": _starts,
    "weighted_mean": _averaged,
    "segment_clip_": _clipped,
    "bank_adamw_": _stepped,
    "bank_sgd_": _stepped,
    "sketch": _sketched,
}
NONE_IS_BAD = ("random_words", "random_residues", "discrete_gaussian", "mask_pack")


def bad_calls(op: str, args: tuple[Any, ...]) -> Iterator[tuple[list[Any], str]]:
    """The torch op's arguments with one bad value in them, and the pattern of the message."""
    names = [argument.name for argument in OPS[op].torch_op._schema.arguments]
    maker = _MAKERS.get(op, _residues_and_floats if "modulus" in names else lambda a: iter(()))
    for changed, words in maker(dict(zip(names, args, strict=True))):
        # An op may write its arguments: each call gets tensors of its own.
        yield [with_tensors(changed[name], torch.clone) for name in names], words

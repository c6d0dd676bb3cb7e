"""Fixed-point arithmetic over a field, with a proof that sums cannot wrap; and flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree

from pyfed.checks import expect_field, expect_int, expect_residues, expect_tensor, naming
from pyfed.encoding import Encoding
from pyfed.errors import ArgumentError, DtypeError
from pyfed.fields import SOLINAS31, WIDE, Field
from pyfed.keys import Key
from pyfed.ops.field import field_sum
from pyfed.ops.fixed import LARGEST_STEP, dequantize, expect_clip, quantize
from pyfed.ops.lift import field_lift

LARGEST_EXACT = 2**24
"""Integers up to this magnitude are exact in float32."""


@dataclass(frozen=True)
class FixedPoint(Encoding):
    """How floats become residues, for sums of integer-weighted values that provably do not wrap.

    The scale is 2^s with s = ⌊log2(2^(bits-1) / clip)⌋. A sum of at most ``clients`` values, each
    with a weight of at most ``max_weight``, stays within (p - 1) / 2, so its sign is kept.

    Args:
        clip: values are clipped to [-clip, clip]; rounded to float32.
        bits: bits of a value, with its sign, from 2 to 31; 31 do not fit every clip.
        clients: the most values that are summed.
        max_weight: the largest integer weight of one.
        field: the prime field, or ``WIDE`` where weights and clients are too many for one: then
            residues have a leading axis of 2 planes.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: an argument is out of range, or such a sum could wrap; the message gives
            the numbers and the remedy.

    Example:
        >>> import torch, pyfed
        >>> fixed = pyfed.FixedPoint(clip=1.0, bits=16, clients=2)
        >>> key = pyfed.Key(bytes(range(32)))
        >>> shared = fixed.encode(torch.tensor([0.25, -1.0]), key)
        >>> fixed.decode(shared, total_weight=1)
        tensor([ 0.2500, -1.0000])
    """

    clip: float = 1.0
    bits: int = 16
    clients: int = 100
    max_weight: int = 1
    field: Field = SOLINAS31

    def __post_init__(self) -> None:
        expect_field("FixedPoint", self.field, wide=True)
        expect_int("FixedPoint", "bits", self.bits, 2, 32)
        expect_int("FixedPoint", "clients", self.clients, 1, 2**31)
        expect_int("FixedPoint", "max_weight", self.max_weight, 1, 2**31)
        object.__setattr__(self, "clip", expect_clip("FixedPoint", self.clip))
        if not -100 <= self.exponent <= 100:
            raise ArgumentError(
                f"FixedPoint: clip is {self.clip}; with {self.bits} bits the scale would be "
                f"2^{self.exponent}, and it must be from 2^-100 to 2^100"
            )
        half, step = (self.field.modulus - 1) // 2, self.largest
        if step > LARGEST_STEP:
            raise ArgumentError(
                f"FixedPoint: bits is {self.bits}; a scaled value could reach {step}, above "
                f"{LARGEST_STEP}; use fewer bits"
            )
        total = self.clients * self.max_weight * step
        if total > half:
            affordable = half // (self.clients * self.max_weight)
            fewer = affordable.bit_length()
            room = ", or field=WIDE" if 2 * total < WIDE.modulus else ""
            remedy = f"use bits ≤ {fewer}, or fewer clients" if fewer >= 2 else "use fewer clients"
            raise ArgumentError(
                f"FixedPoint: clients · max_weight · ⌈clip · scale⌉ = {self.clients} · "
                f"{self.max_weight} · {step} = {total} exceeds (p - 1) / 2 = {half} of "
                f"{self.field.name}, so a sum could wrap; {remedy}, "
                f"or a smaller max_weight{room}"
            )

    @property
    def exponent(self) -> int:
        """s, where the scale is 2^s."""
        # frexp is exact: 2^(bits-1) / clip = 2^(bits-1) / (m · 2^e), with 1/2 ≤ m < 1.
        mantissa, power = math.frexp(self.clip)
        return self.bits - 1 - power + (1 if mantissa == 0.5 else 0)

    @property
    def scale(self) -> float:
        """Steps per unit, a power of two."""
        return 2.0**self.exponent

    @property
    def largest(self) -> int:
        """The largest magnitude of one unweighted value, in steps: ⌈clip · scale⌉."""
        return math.ceil(self.clip * self.scale)

    @property
    def lanes(self) -> int:
        """1: a value fills its residue."""
        return 1

    @property
    def form(self) -> tuple[object, ...]:
        """What a session is bound to: clip, bits and scale."""
        return self.clip, self.bits, self.scale

    def expect_update(self, op: str, update: object, length: int) -> torch.Tensor:
        """``update`` detached; raises unless it is a float vector of that length."""
        expect_tensor(op, "update", update, (torch.float32, torch.float16, torch.bfloat16), 1)
        assert isinstance(update, torch.Tensor)
        if update.numel() != length:
            raise ArgumentError(f"{op}: update has {update.numel()} elements; length is {length}")
        return update.detach()

    def check_weight(self, weight: object) -> int:
        """``weight`` as an int; raises unless it is an integer from 0 to ``max_weight``."""
        if isinstance(weight, bool) or not isinstance(weight, int):
            kind = type(weight).__name__
            raise DtypeError(f"FixedPoint: weight is {weight!r} ({kind}); it must be an int")
        if not 0 <= weight <= self.max_weight:
            raise ArgumentError(
                f"FixedPoint: weight is {weight}; it must be from 0 to max_weight = "
                f"{self.max_weight}"
            )
        return weight

    def encode(
        self,
        tensor: torch.Tensor,
        key: Key | None,
        weight: int = 1,
        stream: int = 0,
        start: int = 0,
    ) -> torch.Tensor:
        """Round values to residues and multiply them by an integer weight.

        Args:
            tensor: float32, float16 or bfloat16 of any shape.
            key: makes the rounding unbiased; None rounds to nearest.
            weight: an integer from 0 to ``max_weight``.
            stream: which stream of the key.
            start: index of the first element's random word.

        Returns:
            int32 residues shaped like ``tensor``, over ``WIDE`` behind a leading axis of 2 planes.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: the weight is out of range, or a value is NaN or infinite.
        """
        self.check_weight(weight)
        residues = quantize(tensor, self.scale, self.clip, self.field, key, stream, start)
        if weight == 1:
            return residues
        try:
            one = residues.unsqueeze(len(self.field.lead))  # a sum of one client
            return field_sum(one, self.field, weights=[weight])
        finally:
            residues.zero_()

    def decode(self, residue_sum: torch.Tensor, total_weight: int = 1) -> torch.Tensor:
        """The weighted mean that a sum of encoded values stands for.

        Args:
            residue_sum: int32 residues of any shape.
            total_weight: the sum of the weights, a positive integer.

        Returns:
            float32 tensor: float32(centred lift) / scale / total_weight.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: total_weight is not positive, or a residue lies outside [0, p).
        """
        expect_int("FixedPoint.decode", "total_weight", total_weight, 1, 2**63)
        values = dequantize(residue_sum, self.scale, self.field)
        return values / total_weight if total_weight != 1 else values

    def encode_update(
        self, update: torch.Tensor, length: int, key: Key | None, weight: int
    ) -> torch.Tensor:
        """:meth:`encode` of a whole update."""
        return self.encode(update, key, weight)

    def integer_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """:meth:`integers`."""
        return self.integers(residue_sum)

    def float_sum(self, residue_sum: torch.Tensor, length: int, clients: int) -> torch.Tensor:
        """:meth:`decode` of the sum, not divided."""
        return self.decode(residue_sum)

    def integers(self, residue_sum: torch.Tensor) -> torch.Tensor:
        """The exact sum in steps: the centred lift of int32 residues, as int64."""
        expect_residues("FixedPoint.integers", "residue_sum", residue_sum, self.field)
        with naming("FixedPoint.integers", "residue_sum", residue_sum, self.field.code):
            return field_lift(residue_sum, self.field)


def flatten(tree: Any) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """One float32 vector of all tensors in a tree, and the way back.

    Buffers that are no parameters, such as a batch norm's counter of steps, are flattened too; an
    update of one may exceed the clip of a :class:`FixedPoint`, which then cuts it off. To average
    parameters alone, flatten ``dict(model.named_parameters())``.

    Args:
        tree: a tensor, or dicts, lists and tuples of them, such as a ``state_dict``. Tensors are
            float32, float16 or bfloat16, or integer or bool with magnitudes up to 2^24, so that
            nothing is lost; all on one device.

    Returns:
        The vector, float32 (elements,), and a function that makes the same tree, with the same
        shapes and dtypes, of such a vector. Integers come back rounded to the nearest; bools are
        True from 0.5 on. The vector is detached from any graph.

    Raises:
        DtypeError: a leaf is no tensor, or has a dtype that float32 cannot hold.
        ArgumentError: tensors lie on several devices, an integer is too large, or the way back is
            given a vector of another length or dtype, or one that does not fit an integer leaf.

    Example:
        >>> import torch, pyfed
        >>> flat, rebuild = pyfed.flatten({"w": torch.ones(2, 1), "steps": torch.tensor(3)})
        >>> flat
        tensor([1., 1., 3.])
        >>> rebuild(flat * 2)
        {'w': tensor([[2.],
                [2.]]), 'steps': tensor(6)}
    """
    leaves, shape_of_tree = _pytree.tree_flatten(tree)
    for number, leaf in enumerate(leaves):
        _expect_leaf(number, leaf)
    devices = {leaf.device for leaf in leaves}
    if len(devices) > 1:
        found = ", ".join(sorted(map(str, devices)))
        raise ArgumentError(f"flatten: tensors lie on {found}; they must be on one device")
    pieces = [leaf.detach().reshape(-1).to(torch.float32) for leaf in leaves]
    flat = torch.cat(pieces) if pieces else torch.empty(0)
    shapes = [(leaf.shape, leaf.dtype, leaf.numel()) for leaf in leaves]

    def rebuild(vector: torch.Tensor) -> Any:
        """The tree of a float32 vector of the same length."""
        expect_tensor("rebuild", "vector", vector, torch.float32, 1)
        if vector.shape != flat_shape:
            raise ArgumentError(
                f"rebuild: vector has {vector.numel()} elements; the tree has {flat_shape[0]}"
            )
        parts = vector.split([count for _, _, count in shapes])
        return shape_of_tree.unflatten(
            [
                _restored(part, dtype).reshape(shape)
                for part, (shape, dtype, _) in zip(parts, shapes, strict=True)
            ]
        )

    flat_shape = flat.shape
    return flat, rebuild


def _expect_leaf(number: int, leaf: object) -> None:
    if not isinstance(leaf, torch.Tensor):
        kind = type(leaf).__name__
        raise DtypeError(f"flatten: leaf {number} is {kind}; it must be a torch.Tensor")
    if leaf.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.bool):
        return
    if leaf.dtype.is_floating_point or leaf.dtype.is_complex:
        raise DtypeError(
            f"flatten: leaf {number} has dtype {leaf.dtype}, which float32 cannot hold; convert it"
        )
    wide = leaf.to(torch.int64)  # not abs(): the magnitude of -2^63 has no int64
    if bool(((wide > LARGEST_EXACT) | (wide < -LARGEST_EXACT)).any()):
        raise ArgumentError(
            f"flatten: leaf {number} holds an integer above 2^24, which float32 cannot hold; "
            "leave it out of the tree"
        )


def _restored(part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A slice of the flat vector in the dtype of its leaf, in memory of its own."""
    if dtype == torch.bool:
        return part >= 0.5
    if dtype.is_floating_point:
        return part.to(dtype, copy=True)
    if not bool(torch.isfinite(part).all()):
        raise ArgumentError("rebuild: vector has NaN or infinity where the tree has integers")
    limits = torch.iinfo(dtype)
    return part.round().to(torch.float64).clamp(limits.min, limits.max).to(dtype)

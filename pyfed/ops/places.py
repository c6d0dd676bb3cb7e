"""Where the values of clients lie when no bits say it: rectangles, and lists of indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.tiles import expect_shape

Span = tuple[int, int]


@dataclass(frozen=True)
class Rectangles:
    """Clients that hold a rectangle of a tensor each, as HeteroFL and FjORD give them.

    Args:
        shape: of the whole tensor.
        boxes: for each client the (start, stop) of its first one or two dimensions; dimensions
            that are left out are held in full.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a box has more than two dimensions, or leaves the shape.

    Example:
        >>> from pyfed.ops.places import Rectangles
        >>> widths = Rectangles.prefixes((8, 4, 3, 3), [(8, 4), (4, 2)])
        >>> widths.extents(1)
        (4, 2, 3, 3)
    """

    shape: tuple[int, ...]
    boxes: tuple[tuple[Span, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", expect_shape("Rectangles", self.shape))
        if not isinstance(self.boxes, Sequence):
            raise DtypeError(f"Rectangles: boxes is {type(self.boxes).__name__}; it must be a list")
        checked = tuple(self._checked(client, box) for client, box in enumerate(self.boxes))
        object.__setattr__(self, "boxes", checked)

    def _checked(self, client: int, box: Sequence[Span]) -> tuple[Span, ...]:
        name = f"boxes[{client}]"
        if not isinstance(box, Sequence):
            raise DtypeError(f"Rectangles: {name} is {type(box).__name__}; it must be a list")
        if len(box) > min(2, len(self.shape)):
            raise ArgumentError(
                f"Rectangles: {name} has {len(box)} dimensions; it must have at most "
                f"{min(2, len(self.shape))} for shape {self.shape}"
            )
        spans = []
        for axis, span in enumerate(box):
            if not isinstance(span, Sequence) or len(span) != 2:
                shown = type(span).__name__
                raise DtypeError(
                    f"Rectangles: {name}[{axis}] is {shown}; it must be a pair (start, stop)"
                )
            expect_int("Rectangles", f"{name}[{axis}] stop", span[1], 0, self.shape[axis] + 1)
            expect_int("Rectangles", f"{name}[{axis}] start", span[0], 0, span[1] + 1)
            spans.append((span[0], span[1]))
        return tuple(spans)

    @classmethod
    def prefixes(cls, shape: Sequence[int], extents: Sequence[Sequence[int]]) -> Rectangles:
        """The first ``extents[i]`` elements of the leading dimensions for each client i.

        Args:
            shape: of the whole tensor.
            extents: for each client how many elements of its first one or two dimensions it holds.

        Raises:
            DtypeError, ArgumentError: as for :class:`Rectangles`.
        """
        if not isinstance(extents, Sequence):
            kind = type(extents).__name__
            raise DtypeError(f"Rectangles.prefixes: extents is {kind}; it must be a list of lists")
        for client, box in enumerate(extents):
            if isinstance(box, str) or not isinstance(box, Sequence):
                raise DtypeError(
                    f"Rectangles.prefixes: extents[{client}] is {type(box).__name__}; it must be a "
                    "list with the extents of one or two dimensions"
                )
        boxes = tuple(tuple((0, extent) for extent in box) for box in extents)
        return cls(tuple(shape), boxes)

    def extents(self, client: int) -> tuple[int, ...]:
        """The shape of what a client holds.

        Raises:
            DtypeError, ArgumentError: there is no such client.
        """
        expect_int("Rectangles.extents", "client", client, 0, len(self.boxes))
        box = self.boxes[client]
        return (*(stop - start for start, stop in box), *self.shape[len(box) :])

    def cut(self, tensor: torch.Tensor, client: int) -> torch.Tensor:
        """What a client holds of a tensor of the whole shape: a view.

        Raises:
            DtypeError: an argument has a wrong type.
            ArgumentError: the tensor has another shape, or there is no such client.
        """
        expect_int("Rectangles.cut", "client", client, 0, len(self.boxes))
        if not isinstance(tensor, torch.Tensor):
            kind = type(tensor).__name__
            raise DtypeError(f"Rectangles.cut: tensor is {kind}; it must be a torch.Tensor")
        if tuple(tensor.shape) != self.shape:
            raise ArgumentError(
                f"Rectangles.cut: tensor has shape {tuple(tensor.shape)}; it must be {self.shape}"
            )
        return tensor[tuple(slice(start, stop) for start, stop in self.boxes[client])]

    def on_matrix(self) -> tuple[int, list[list[int]], list[int]]:
        """Columns; (row start, row stop, column start, column stop); values of each client.

        The tensor is seen as the matrix (shape[0], all the rest), or as one row when it has one
        dimension.
        """
        columns = math.prod(self.shape[1:]) if len(self.shape) > 1 else math.prod(self.shape)
        inner = math.prod(self.shape[2:])
        places = []
        for box in self.boxes:
            spans = [*box, *((0, extent) for extent in self.shape[len(box) :])][:2]
            spans = [(0, 1)] * (2 - len(spans)) + spans
            (r0, r1), (c0, c1) = spans
            scale = inner if len(self.shape) > 1 else 1
            places.append([r0, r1, c0 * scale, c1 * scale])
        return columns, places, [(r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in places]


@dataclass(frozen=True, eq=False)
class Indices:
    """Clients that hold the elements of a list of indices each, as top-k compression gives them.

    Args:
        shape: of the whole tensor.
        indices: for each client the flat indices of its values, strictly ascending: a list of
            int64 tensors (k_i,) on one device.

    Raises:
        DtypeError: an argument has a wrong type or dtype.

    Example:
        >>> import torch
        >>> from pyfed.ops.places import Indices
        >>> Indices((2, 3), [torch.tensor([0, 4]), torch.tensor([5])]).counts
        (2, 1)
    """

    shape: tuple[int, ...]
    indices: Sequence[torch.Tensor]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", expect_shape("Indices", self.shape))
        if not isinstance(self.indices, Sequence):
            kind = type(self.indices).__name__
            raise DtypeError(f"Indices: indices is {kind}; it must be a list of tensors")
        for client, index in enumerate(self.indices):
            expect_tensor("Indices", f"indices[{client}]", index, torch.int64, 1)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many elements each client holds."""
        return tuple(index.shape[0] for index in self.indices)

"""Votes of clients that arrive one by one, counted in bit planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pyfed.checks import expect_device, expect_int, expect_tensor
from pyfed.errors import ArgumentError, DtypeError
from pyfed.ops.counts import MOST_CLIENTS, mask_add, mask_totals
from pyfed.ops.masks import bad_padding, bytes_of, mask_pack
from pyfed.ops.selection import mask_select

WAITING = 8
"""Clients that wait for one pass over the planes: a byte for each weight at most."""


@dataclass
class _Layer:
    """What is kept of one layer: packed rows are uint8 (…, ⌈length / 8⌉)."""

    shape: tuple[int, ...]
    length: int
    planes: torch.Tensor
    waiting: torch.Tensor  # (0 or WAITING, bytes): the first ``filled`` rows count
    filled: int = 0
    clients: set[int] = field(default_factory=set)
    released: bool = False

    def settled(self, more: torch.Tensor | None = None) -> torch.Tensor:
        """The planes with the rows that wait, and with more of them, added; nothing changes."""
        planes, total = self.planes, len(self.clients)
        if self.filled:
            planes = mask_add(planes, self.waiting[: self.filled], self.length, total)
        if more is not None:
            planes = mask_add(planes, more, self.length, total + more.shape[0])
        return planes

    def settle(self) -> None:
        """Add the rows that wait to the planes: the same votes in another form."""
        if self.filled:
            self.planes, self.filled = self.settled(), 0


class MaskVotes:
    """Counts clients' masks as they come, with ⌈log2(N + 1)⌉ bits of state for each weight.

    A client votes once on each layer, on all layers at once or block by block, and may leave out
    layers; so the layers' numbers of clients may differ. A set bit, or True, means *prune*. Up to
    8 masks of a layer wait to be added in one pass, which costs one byte more for each weight.

    A call that raises has changed nothing. One thread at a time may call.

    Args:
        shapes: layer name → shape of its weight.
        device: where votes are counted.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: there is no layer, a size is negative, or the device cannot count.

    Example:
        >>> import torch
        >>> from pyfed.pruning import MaskVotes
        >>> votes = MaskVotes({"w": (2, 2)})
        >>> votes.add(0, {"w": torch.tensor([[True, False], [True, False]])})
        >>> votes.add(1, {"w": torch.tensor([5], dtype=torch.uint8)})  # the same, packed
        >>> votes.add(7, {"w": torch.tensor([[True, True], [False, False]])})
        >>> votes.counts("w")
        tensor([3, 1, 2, 0], dtype=torch.uint8)
        >>> votes.select("w", 0.5)
        tensor([[ True, False],
                [ True, False]])
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], device: torch.device | str = "cpu"
    ) -> None:
        self._device = expect_device("MaskVotes", device)
        if self._device.type == "meta":
            raise ArgumentError("MaskVotes: device is 'meta'; nothing can be counted there")
        self._layers: dict[str, _Layer] = {}
        for name, shape in expect_shapes("MaskVotes", shapes).items():
            length = torch.Size(shape).numel()
            none = torch.empty(0, bytes_of(length), dtype=torch.uint8, device=self._device)
            self._layers[name] = _Layer(shape, length, planes=none, waiting=none)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers, in the order given."""
        return tuple(self._layers)

    @property
    def state_bytes(self) -> int:
        """Bytes of all bit planes and of masks that wait."""
        tensors = [t for kept in self._layers.values() for t in (kept.planes, kept.waiting)]
        return sum(tensor.numel() for tensor in tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of state for each weight, averaged over the layers that are not released."""
        weights = sum(kept.length for kept in self._layers.values() if not kept.released)
        return 8 * self.state_bytes / weights if weights else 0.0

    def add(self, client: int, masks: Mapping[str, torch.Tensor]) -> None:
        """Count one client's votes on some layers.

        Args:
            client: its number, not negative.
            masks: layer → bool in the layer's shape or flat, or packed uint8 (⌈length / 8⌉,) as
                :func:`pyfed.ops.mask_pack` gives it; on any device.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: the client has voted on one of these layers, ``masks`` is empty, a name
                or shape is wrong, a padding bit is set, or a layer has 65,535 clients.
        """
        self._expect_new("MaskVotes.add", [client], masks)
        rows = {name: self._packed("MaskVotes.add", name, m) for name, m in masks.items()}
        self._expect_padding("MaskVotes.add", rows)
        for name, row in rows.items():
            kept = self._layers[name]
            if kept.filled == WAITING:
                kept.settle()
            if not kept.waiting.shape[0]:
                kept.waiting = kept.planes.new_empty(WAITING, bytes_of(kept.length))
            kept.waiting[kept.filled] = row  # counts once ``filled`` says so
        for name in rows:
            self._layers[name].filled += 1
            self._layers[name].clients.add(client)

    def add_batch(self, clients: Sequence[int], masks: Mapping[str, torch.Tensor]) -> None:
        """Count the votes of several clients on some layers, in one pass over each.

        Args:
            clients: their numbers.
            masks: layer → bool (clients, …) in the layer's shape or flat, or packed uint8
                (clients, ⌈length / 8⌉); on any device.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: as for :meth:`add`, or a client is named twice, or the rows are not one
                for each client.
        """
        op = "MaskVotes.add_batch"
        if isinstance(clients, str) or not isinstance(clients, Sequence):
            kind = type(clients).__name__
            raise DtypeError(f"{op}: clients is {kind}; it must be a list of numbers")
        self._expect_new(op, clients, masks)
        rows = {name: self._packed(op, name, m, len(clients)) for name, m in masks.items()}
        self._expect_padding(op, rows)
        settled = {name: self._layers[name].settled(more) for name, more in rows.items()}
        for name, planes in settled.items():
            kept = self._layers[name]
            kept.planes, kept.filled = planes, 0
            kept.clients.update(clients)

    def clients(self, name: str) -> frozenset[int]:
        """The clients that have voted on a layer."""
        return frozenset(self._known("MaskVotes.clients", name).clients)

    def counts(self, name: str) -> torch.Tensor:
        """How many clients vote to prune each weight of a layer.

        Returns:
            Tensor (length,), flat: uint8 up to 255 clients, int32 beyond.

        Raises:
            ArgumentError: there is no such layer, it was released, or nobody has voted on it.
        """
        kept = self._known("MaskVotes.counts", name)
        if not kept.clients:
            raise ArgumentError(f"MaskVotes.counts: no client has voted on {name!r}")
        kept.settle()
        return mask_totals(kept.planes, kept.length)

    def select(self, name: str, sparsity: Any, **rule: Any) -> torch.Tensor:
        """The final mask of a layer: :func:`pyfed.ops.mask_select` on its counts.

        Args:
            name: the layer.
            sparsity: which part to prune.
            rule: ``group``, ``ties``, ``weight``, ``score``, ``key``, ``stream``, ``rounding``.

        Returns:
            bool tensor in the layer's shape, True = prune.

        Raises:
            DtypeError, ArgumentError: as :meth:`counts` and ``mask_select`` say.
        """
        counts = self.counts(name)
        return mask_select(counts, self._layers[name].shape, sparsity, **rule)

    def release(self, name: str) -> None:
        """Free what is kept of a layer; it takes no votes and gives no counts afterwards."""
        kept = self._known("MaskVotes.release", name)
        kept.planes = kept.waiting = kept.planes.new_empty(0, 0)
        kept.filled, kept.clients, kept.released = 0, set(), True

    def _known(self, op: str, name: object) -> _Layer:
        kept = self._layers.get(name) if isinstance(name, str) else None
        if kept is None:
            raise ArgumentError(
                f"{op}: there is no layer {name!r}; it must be one of the {len(self._layers)} of "
                f"shapes, such as {next(iter(self._layers))!r}"
            )
        if kept.released:
            raise ArgumentError(f"{op}: layer {name!r} was released")
        return kept

    def _expect_new(self, op: str, clients: Sequence[int], masks: object) -> None:
        """Raise unless these clients may vote on the layers that ``masks`` names."""
        if not isinstance(masks, Mapping):
            raise DtypeError(f"{op}: masks is {type(masks).__name__}; it must map names to tensors")
        if not masks:
            raise ArgumentError(f"{op}: masks is empty; it must have one layer at least")
        for client in clients:
            expect_int(op, "client", client, 0, 2**63)
        new = set(clients)
        if len(new) < len(clients):
            raise ArgumentError(f"{op}: clients names a client twice")
        for name in masks:
            kept = self._known(op, name)
            if again := new & kept.clients:
                raise ArgumentError(f"{op}: client {min(again)} has voted on {name!r} before")
            if len(kept.clients) + len(new) > MOST_CLIENTS:
                raise ArgumentError(
                    f"{op}: {name!r} has {len(kept.clients)} clients and {len(new)} come; "
                    f"together they must be at most {MOST_CLIENTS}"
                )

    def _packed(self, op: str, name: str, mask: object, *rows: int) -> torch.Tensor:
        """One client's mask, or ``rows`` of them: packed uint8 (*rows, ⌈length / 8⌉), here."""
        kept, what = self._layers[name], f"masks[{name!r}]"
        expect_tensor(op, what, mask, (torch.bool, torch.uint8))
        assert isinstance(mask, torch.Tensor)
        if mask.dtype == torch.uint8:
            expect_packed_vote(op, what, mask, kept.length, *rows)
            return mask.to(self._device)
        wanted, flat = (*rows, *kept.shape), (*rows, kept.length)
        if tuple(mask.shape) not in (wanted, flat):
            raise ArgumentError(
                f"{op}: {what} has shape {tuple(mask.shape)}; it must be {wanted} or flat, {flat}"
            )
        return mask_pack(mask.to(self._device).reshape(flat))

    def _expect_padding(self, op: str, rows: Mapping[str, torch.Tensor]) -> None:
        for name, row in rows.items():
            length = self._layers[name].length
            if bool(bad_padding(row, length).any()):
                raise ArgumentError(
                    f"{op}: masks[{name!r}] has a bit set behind its {length} elements; padding "
                    "bits must be 0"
                )


def expect_packed_vote(op: str, what: str, mask: torch.Tensor, length: int, *rows: int) -> None:
    """Raise unless a mask of uint8 is packed: zeros and ones of a byte each are not."""
    wanted = (*rows, bytes_of(length))
    if tuple(mask.shape) != wanted:
        raise ArgumentError(
            f"{op}: {what} is uint8 of shape {tuple(mask.shape)}; uint8 means packed, 8 elements a "
            f"byte: for {length} elements {wanted}; give that, or a bool mask"
        )


def expect_shapes(op: str, shapes: object) -> dict[str, tuple[int, ...]]:
    """Layer → shape as tuples; raises unless ``shapes`` is a mapping of at least one of them."""
    if not isinstance(shapes, Mapping):
        kind = type(shapes).__name__
        raise DtypeError(f"{op}: shapes is {kind}; it must map layer names to shapes")
    if not shapes:
        raise ArgumentError(f"{op}: shapes is empty; it must name at least one layer")
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if not isinstance(name, str):
            raise DtypeError(f"{op}: shapes has a key of {type(name).__name__}; it must be a name")
        if isinstance(shape, str) or not isinstance(shape, Sequence):
            raise DtypeError(
                f"{op}: shapes maps {name!r} to {type(shape).__name__}; it must map names to lists "
                "of sizes, such as tuple(weight.shape)"
            )
        for size in shape:
            expect_int(op, f"a size of {name!r}", size, 0, 2**40)
        found[name] = tuple(shape)
    return found

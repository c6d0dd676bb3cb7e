"""Votes counted in secret: the masks of a model through LightSecAgg, in lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pyfed.checks import expect_int, expect_one_device, expect_tensor
from pyfed.errors import ArgumentError, DecodeError, DtypeError
from pyfed.fields import SOLINAS31, Field
from pyfed.lanes import VoteLanes
from pyfed.ops.masks import mask_unpack
from pyfed.pruning.votes import expect_packed_vote, expect_shapes
from pyfed.secagg.lightsecagg import LONGEST, LightSecAgg
from pyfed.secagg.result import RoundResult

__all__ = ["LayerCounts", "SecureVotes", "VoteLanes"]


class LayerCounts(NamedTuple):
    """The votes on one layer: counts (length,), uint8 or int32, and the clients in them."""

    counts: torch.Tensor
    included: frozenset[int]


class _Piece(NamedTuple):
    """Elements ``start`` to ``stop`` of a layer, one after another in a chunk."""

    name: str
    start: int
    stop: int


class SecureVotes:
    """Splits a model's masks into sessions of LightSecAgg, and their results into counts.

    The layers follow one another in chunks that one session carries; a layer that fits into a
    chunk is not cut. Every chunk is a session of its own, with its own clients' keys, and one
    round gives its counts. In ℓ lanes an upload takes 32 / ℓ bits for each weight (8 from 73 to
    214 clients, less below), where a packed mask takes 1.

    Args:
        shapes: layer name → shape of its weight, equal at all parties.
        clients: N, from 3 to 4,096, which is as far as LightSecAgg goes; the lanes alone go on.
        privacy: T ≥ 1: the server and T clients together learn nothing but the counts.
        dropouts: D ≥ 0: how many clients may be lost in a session.
        field: the prime field.
        chunk: votes of a session at most; None: as many as one message can carry. The server
            keeps 4 · N / ℓ bytes for each.
        options: ``errors``, ``detect`` and ``server`` of :class:`pyfed.secagg.LightSecAgg`.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: the numbers do not fit together.

    Example:
        >>> import torch
        >>> from pyfed.pruning.secure import SecureVotes
        >>> from pyfed.secagg import simulate
        >>> secure = SecureVotes({"w": (2, 3), "v": (1, 2)}, clients=4, privacy=1, dropouts=1)
        >>> w, v = torch.tensor([1, 0, 0, 1, 0, 1]) > 0, torch.tensor([[False, True]])
        >>> masks = [secure.chunks({"w": w, "v": v})] * 4
        >>> protocol = secure.protocols[0]
        >>> result = simulate(protocol, [chunks[0] for chunks in masks], drop={"upload": {2}})
        >>> secure.counts([result])["w"].counts
        tensor([3, 0, 0, 3, 0, 3], dtype=torch.uint8)
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        clients: int,
        privacy: int,
        dropouts: int,
        field: Field = SOLINAS31,
        chunk: int | None = None,
        **options: Any,
    ) -> None:
        self.shapes = expect_shapes("SecureVotes", shapes)
        self.lanes = VoteLanes(clients, field)
        most = (LONGEST - 1) * self.lanes.lanes
        if chunk is not None:
            expect_int("SecureVotes", "chunk", chunk, 1, most + 1)
        self._lengths = {name: torch.Size(s).numel() for name, s in self.shapes.items()}
        self._chunks = _arranged(self._lengths, most if chunk is None else chunk)
        self.protocols = tuple(
            LightSecAgg(
                clients,
                privacy,
                dropouts,
                length=sum(piece.stop - piece.start for piece in pieces),
                fixed=self.lanes,
                **options,
            )
            for pieces in self._chunks
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits of an upload for each vote: 32 / ℓ."""
        return 32 / self.lanes.lanes

    def chunks(self, masks: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """One client's update for every session.

        Args:
            masks: every layer → bool in its shape or flat, or packed uint8 (⌈length / 8⌉,); all on
                one device.

        Returns:
            A bool vector for each of ``protocols``, of its length.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: a layer is missing or unknown, a shape is wrong, or a padding bit is set
                (on CUDA the last is raised by :func:`pyfed.check`).
        """
        op = "SecureVotes.chunks"
        if not isinstance(masks, Mapping):
            raise DtypeError(f"{op}: masks is {type(masks).__name__}; it must map names to tensors")
        if set(masks) != set(self._lengths):
            odd = sorted(map(str, set(masks) ^ set(self._lengths)))
            raise ArgumentError(
                f"{op}: masks must name exactly the {len(self._lengths)} layers of shapes; missing "
                f"or unknown are {odd[:4]}"
            )
        flat = {name: self._flat(op, name, mask) for name, mask in masks.items()}
        expect_one_device(op, flat.values())
        return [
            torch.cat([flat[name][start:stop] for name, start, stop in pieces])
            for pieces in self._chunks
        ]

    def counts(self, results: Sequence[RoundResult]) -> dict[str, LayerCounts]:
        """The counts of every layer, of one result for each session in their order.

        Raises:
            DtypeError: ``results`` is no list of results.
            ArgumentError: they are not one for each session, or a layer that was cut has other
                clients in one part than in another; run the sessions of that layer again.
            DecodeError: a client did not keep to the encoding.
        """
        op = "SecureVotes.counts"
        if not isinstance(results, Sequence) or not all(
            isinstance(result, RoundResult) for result in results
        ):
            raise DtypeError(f"{op}: results must be a list of RoundResult")
        if len(results) != len(self.protocols):
            raise ArgumentError(
                f"{op}: {len(results)} results are given; there are {len(self.protocols)} sessions"
            )
        parts: dict[str, list[LayerCounts]] = {name: [] for name in self._lengths}
        for number, (pieces, result) in enumerate(zip(self._chunks, results, strict=True)):
            decoded = self._decoded(op, number, result)
            sizes = [piece.stop - piece.start for piece in pieces]
            for piece, counts in zip(pieces, decoded.split(sizes), strict=True):
                parts[piece.name].append(LayerCounts(counts, result.included))
        return {name: _joined(op, name, found) for name, found in parts.items()}

    def _decoded(self, op: str, number: int, result: RoundResult) -> torch.Tensor:
        length = self.protocols[number].parameters.length
        if (result.fixed, result.length) != (self.lanes, length):
            raise ArgumentError(f"{op}: results[{number}] is of another session than its place")
        if result.total_weight != len(result.included):
            raise DecodeError(
                f"{op}: the weights of {len(result.included)} clients sum to "
                f"{result.total_weight}, and each has weight 1: a client did not keep to it"
            )
        return self.lanes.decode(result.residues, length, len(result.included))

    def _flat(self, op: str, name: str, mask: object) -> torch.Tensor:
        """A layer's mask as bool (length,)."""
        length, what = self._lengths[name], f"masks[{name!r}]"
        expect_tensor(op, what, mask, (torch.bool, torch.uint8))
        assert isinstance(mask, torch.Tensor)
        if mask.dtype == torch.uint8:
            expect_packed_vote(op, what, mask, length)
            return mask_unpack(mask, length)
        if tuple(mask.shape) not in (self.shapes[name], (length,)):
            raise ArgumentError(
                f"{op}: {what} has shape {tuple(mask.shape)}; it must be {self.shapes[name]} or "
                "flat"
            )
        return mask.reshape(-1)


def _arranged(lengths: Mapping[str, int], chunk: int) -> list[list[_Piece]]:
    """Layers in order, as many into a chunk as fit; only one longer than a chunk is cut."""
    chunks: list[list[_Piece]] = []
    room = -1
    for name, length in lengths.items():
        for at in range(0, max(length, 1), chunk):
            size = min(length - at, chunk)
            if size > room:
                chunks.append([])
                room = chunk
            chunks[-1].append(_Piece(name, at, at + size))
            room -= size
    return chunks


def _joined(op: str, name: str, parts: Sequence[LayerCounts]) -> LayerCounts:
    """The parts of one layer behind one another."""
    if len({part.included for part in parts}) > 1:
        raise ArgumentError(
            f"{op}: the {len(parts)} sessions of layer {name!r} have different clients in them; "
            "its counts would not compare, so run these sessions again"
        )
    return LayerCounts(torch.cat([part.counts for part in parts]), parts[0].included)

"""What is pruned, under which settings: what clients and server must agree on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.session import canonical

VERSION = 1
NARROW = 255
"""The most clients whose counts fit into a byte."""

MOST_CLIENTS = 65_535
MOST_WEIGHTS = 2**31
"""The most weights of a layer."""


class PrunableLayer(NamedTuple):
    """A linear layer that is pruned: its name, the shape (out, in) of its matrix, its block."""

    name: str
    shape: tuple[int, int]
    block: int

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.shape[0] * self.shape[1]

    @property
    def packed_bytes(self) -> int:
        """Bytes of a packed mask of it."""
        return -(-self.weights // 8)


@dataclass(frozen=True)
class Plan:
    """The layers, block by block, and the settings; they fix the size of every message.

    Args:
        settings: (name, value) pairs of str, int, float, bool and None.
        layers: in the order of the model; blocks are numbered from 0 without a gap.

    Raises:
        DtypeError, ArgumentError: there is no layer, two have one name, a shape is empty or too
            large, or the blocks are out of order.
    """

    settings: tuple[tuple[str, Any], ...]
    layers: tuple[PrunableLayer, ...]
    blocks: tuple[tuple[PrunableLayer, ...], ...] = field(init=False, repr=False)
    digest: bytes = field(init=False, repr=False)
    """SHA-256("pyfed/v1/pruning" ‖ canonical msgpack of version, settings and layers)."""

    def __post_init__(self) -> None:
        layers = tuple(_layer(entry) for entry in self.layers)
        if not layers:
            raise ArgumentError("Plan: layers is empty; there must be one at least")
        if len({layer.name for layer in layers}) != len(layers):
            raise ArgumentError("Plan: layers names a layer twice; names must differ")
        blocks: list[list[PrunableLayer]] = []
        for layer in layers:
            if layer.block == len(blocks):
                blocks.append([])
            elif layer.block != len(blocks) - 1:
                raise ArgumentError(
                    f"Plan: layer {layer.name!r} is in block {layer.block} after block "
                    f"{len(blocks) - 1}; blocks must be in order, from 0 without a gap"
                )
            blocks[-1].append(layer)
        everything = canonical((VERSION, self.settings, layers))  # raises on other types
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "blocks", tuple(tuple(block) for block in blocks))
        object.__setattr__(
            self, "digest", hashlib.sha256(b"pyfed/v1/pruning" + everything).digest()
        )

    def setting(self, name: str) -> Any:
        """The value of a setting; None when it is not there."""
        return dict(self.settings).get(name)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """The matrix shapes by layer name."""
        return {layer.name: layer.shape for layer in self.layers}

    @property
    def weights(self) -> int:
        """How many weights there are in all layers together."""
        return sum(layer.weights for layer in self.layers)


def _layer(entry: object) -> PrunableLayer:
    """The entry as a PrunableLayer; raises unless it is well-formed."""
    if not isinstance(entry, tuple) or len(entry) != 3:
        raise DtypeError("Plan: layers holds something else than PrunableLayer(name, shape, block)")
    name, shape, block = entry
    if type(name) is not str or type(block) is not int:
        raise DtypeError("Plan: a layer's name must be a str and its block an int")
    pair = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(pair) != 2 or not all(type(size) is int and size > 0 for size in pair):
        raise ArgumentError(f"Plan: layer {name!r} has shape {shape}; it must be (out, in)")
    if pair[0] * pair[1] > MOST_WEIGHTS:
        raise ArgumentError(
            f"Plan: layer {name!r} has {pair[0] * pair[1]} weights; it must have 2^31 at most"
        )
    return PrunableLayer(name, (pair[0], pair[1]), block)

"""What of an adapter travels, and under which settings: what clients and server must agree on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora.keys import remedy_of_frozen
from pyfed.secagg.session import canonical

VERSION = 1
MOST_CLIENTS = 65_535
MOST_WEIGHT = 2**37
"""A client's weight is below this, so that the sum over 65,535 clients is exact in float64."""

MOST_VALUES = 2**29
"""Values that travel at most: 2 GiB, which one message can still carry."""

ROLES = ("a", "b", "head", "extra")
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a value on the wire."""

MARK = 4
"""Bytes of the digest of one aspect."""

ASPECTS = {
    "settings": "settings (rule, heads, wire dtype, or the half that this round averages)",
    "names": "target modules or heads",
    "shapes": "ranks or shapes",
    "dtypes": "dtypes",
    "scalings": "scaling (lora_alpha, rank or use_rslora)",
    "projection": "VeRA projection (projection_prng_key)",
    "frozen": "values of the half that this round leaves frozen",
}
"""What two plans may differ in, and how an error calls it."""


class LoraTensor(NamedTuple):
    """A trained tensor of an adapter.

    Args:
        name: its key, as PEFT saves it.
        shape: its shape.
        dtype: its dtype at the clients, such as ``"float32"``.
        role: ``"a"`` on the input's side (A of LoRA, λ_d of VeRA), ``"b"`` on the output's side (B,
            λ_b), ``"head"`` for what ``modules_to_save`` names, ``"extra"`` for DoRA's magnitudes
            and ``lora_bias``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str

    @property
    def values(self) -> int:
        """How many values it has."""
        return prod(self.shape)


@dataclass(frozen=True)
class LoraPlan:
    """The tensors of an adapter, which of them travel in a round, and how they are scaled.

    Args:
        settings: (name, value) pairs of str, int, float, bool and None.
        tensors: the trained tensors that all clients have alike; kept in the order of their names.
        scalings: (module path, s) of every adapted module, where y = Wx + s·BAx.
        share: the roles that travel.
        wire: dtype of a value on the way: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        projection: seed of VeRA's frozen projections; None for LoRA.
        frozen: SHA-256 of what the rule needs to be equal at all clients, or empty.

    Raises:
        DtypeError, ArgumentError: nothing travels or too much, two tensors have one name, or a
            field is not well-formed.
    """

    settings: tuple[tuple[str, Any], ...]
    tensors: tuple[LoraTensor, ...]
    scalings: tuple[tuple[str, float], ...]
    share: tuple[str, ...]
    wire: str = "float32"
    projection: int | None = None
    frozen: bytes = b""
    shared: tuple[LoraTensor, ...] = field(init=False, repr=False)
    """The tensors that travel, one after another in the payload of a message."""
    values: int = field(init=False, repr=False)
    """How many values they have together."""
    digest: bytes = field(init=False, repr=False)
    """SHA-256("pyfed/v1/lora" ‖ canonical msgpack of version and all aspects)."""
    marks: bytes = field(init=False, repr=False)
    """The first 4 bytes of the SHA-256 of each aspect, which tell where two plans differ."""

    def __post_init__(self) -> None:
        tensors = tuple(sorted(_tensor(entry) for entry in self.tensors))
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise ArgumentError("LoraPlan: tensors names a tensor twice; names must differ")
        if self.wire not in WIDTHS:
            raise ArgumentError(
                f"LoraPlan: wire is {self.wire!r}; it must be one of {', '.join(WIDTHS)}"
            )
        if not self.share or not set(self.share) <= set(ROLES):
            raise ArgumentError(f"LoraPlan: share is {self.share}; it must be some of {ROLES}")
        shared = tuple(tensor for tensor in tensors if tensor.role in self.share)
        values = sum(tensor.values for tensor in shared)
        if not 0 < values <= MOST_VALUES:
            raise ArgumentError(
                f"LoraPlan: {len(shared)} tensors with {values} values would travel; there must be "
                f"1 to {MOST_VALUES} values"
            )
        put = object.__setattr__
        put(self, "tensors", tensors)
        put(self, "scalings", tuple(sorted(self.scalings)))
        put(self, "shared", shared)
        put(self, "values", values)
        packed = {name: canonical(value) for name, value in self._aspects().items()}
        everything = canonical((VERSION, *packed.values()))
        put(self, "digest", hashlib.sha256(b"pyfed/v1/lora" + everything).digest())
        marks = (hashlib.sha256(value).digest()[:MARK] for value in packed.values())
        put(self, "marks", b"".join(marks))

    def _aspects(self) -> dict[str, Any]:
        """Everything that is agreed on, in the order in which it is hashed."""
        return {
            "settings": (self.settings, self.share, self.wire),
            "names": tuple((tensor.name, tensor.role) for tensor in self.tensors),
            "shapes": tuple(tensor.shape for tensor in self.tensors),
            "dtypes": tuple(tensor.dtype for tensor in self.tensors),
            "scalings": self.scalings,
            "projection": self.projection,
            "frozen": self.frozen,
        }

    @property
    def payload_bytes(self) -> int:
        """Bytes of the values that travel in a message."""
        return self.values * WIDTHS[self.wire]

    def odd_aspects(self, marks: bytes) -> str:
        """What a plan with such marks differs in, in words; empty when nothing is seen."""
        mine = self.marks
        odd = [
            name
            for number, name in enumerate(ASPECTS)
            if mine[number * MARK :][:MARK] != marks[number * MARK :][:MARK]
        ]
        if "names" in odd:  # then the rest cannot be compared one by one
            odd = [name for name in odd if name in ("settings", "names", "projection")]
        words = " and ".join(ASPECTS[name] for name in odd)
        if odd == ["frozen"]:
            words += f": {remedy_of_frozen('B' if 'a' in self.share else 'A')}"
        return words

    def difference(self, other: LoraPlan) -> str:
        """The first thing in which another plan differs, in words; empty when it is equal."""
        if self.digest == other.digest:
            return ""
        mine, theirs = ({t.name: t for t in plan.tensors} for plan in (self, other))
        missing, unknown = sorted(mine.keys() - theirs), sorted(theirs.keys() - mine)
        if missing or unknown:
            which = f"lacks {missing[0]}" if missing else f"has {unknown[0]} beyond it"
            return f"{which}: {ASPECTS['names']} differ"
        for name, tensor in mine.items():
            found = theirs[name]
            if found.shape != tensor.shape:
                return f"{name} has shape {found.shape}; it must be {tensor.shape}"
            if found.dtype != tensor.dtype:
                return f"{name} has dtype {found.dtype}; it must be {tensor.dtype}"
        for (path, wanted), (_, scaling) in zip(self.scalings, other.scalings, strict=False):
            if scaling != wanted:
                return f"{path} has scaling {scaling}; it must be {wanted}"
        if self.projection != other.projection:
            return f"projection_prng_key is {other.projection}; it must be {self.projection}"
        return f"differs in {self.odd_aspects(other.marks)}"

    def place(self, value: int) -> tuple[LoraTensor, tuple[int, ...]]:
        """The tensor in which a value of the payload lies, and its index there."""
        for tensor in self.shared:
            if value < tensor.values:
                break
            value -= tensor.values
        index: list[int] = []
        for size in reversed(tensor.shape):
            value, at = divmod(value, size)
            index.insert(0, at)
        return tensor, tuple(index)


def _tensor(entry: object) -> LoraTensor:
    """The entry as a LoraTensor; raises unless it is well-formed."""
    if not isinstance(entry, tuple) or len(entry) != 4:
        raise DtypeError("LoraPlan: tensors holds something else than LoraTensor(name, shape, …)")
    name, shape, dtype, role = entry
    if type(name) is not str or type(dtype) is not str:
        raise DtypeError("LoraPlan: a tensor's name and dtype must be of type str")
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (0,)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ArgumentError(f"LoraPlan: {name} has shape {shape}; its sizes must be positive")
    if role not in ROLES:
        raise ArgumentError(f"LoraPlan: {name} has role {role!r}; it must be one of {ROLES}")
    return LoraTensor(name, sizes, dtype, role)

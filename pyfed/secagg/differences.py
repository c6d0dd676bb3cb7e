"""Telling in what two sides' parameters of a session differ."""

from __future__ import annotations

import msgpack

from pyfed.errors import ProtocolError
from pyfed.secagg.packing import expect_few_objects
from pyfed.secagg.session import Parameters, canonical

HEAD = (
    *("protocol", "version", "server", "field", "clients", "privacy", "dropouts", "errors"),
    *("detect", "blocks", "length"),
)
FORM = ("clip", "bits", "scale", "max_weight")
"""Behind the head, where the encoding is fixed-point."""

SHORT = 60
"""Characters of a value that are shown."""


def differences(own: Parameters, packed: bytes) -> str:
    """What of another side's parameters is not as here, in words for an error.

    Args:
        own: the parameters here.
        packed: what :meth:`Parameters.packed` has given there.

    Raises:
        ProtocolError: ``packed`` is not well-formed.
    """
    mine, theirs = _values(own.packed(), own.objects), _values(packed, own.objects)
    floats = not any(isinstance(value, str) for value in (*mine[len(HEAD) :], *theirs[len(HEAD) :]))
    told = [
        f"{name} is {_short(there)} there and {_short(here)} here"
        for name, here, there in zip(HEAD + FORM * floats, mine, theirs, strict=False)
        if canonical(here) != canonical(there)
    ]
    return ", ".join(told) or "the encoding differs, or numbers that are of this protocol alone"


def _short(value: object) -> str:
    """A value from a stranger, for a line of a log."""
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


def _values(packed: bytes, most: int) -> list[object]:
    expect_few_objects(memoryview(packed), most)
    try:
        values = msgpack.unpackb(packed, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise ProtocolError(f"parameters are not well-formed msgpack: {error}") from None
    return values if isinstance(values, list) else [values]

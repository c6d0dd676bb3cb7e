"""What a Flower message carries for secure aggregation: a letter, in a ConfigRecord and arrays.

A letter holds the bytes of any number of protocol messages, of one round or of two. Flower calls
the function that is registered for an action before any mod, so an action that is not the default
would need user code: every letter travels as a message of type ``train``, and names its stage
inside, as ``train.pyfed_keys`` and so on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from pyfed.errors import ProtocolError

LOGGER = "flwr.pyfed"
"""Below Flower's own logger, so that an app that shows what Flower logs shows this too."""

KEYS = "train.pyfed_keys"
"""Stage: clients enter a round."""
SHARE = "train.pyfed_share"
"""Stage: clients deal shares."""
TRAIN = "train.pyfed_update"
"""Stage: clients train, and upload what is masked."""
RECOVER = "train.pyfed_recover"
"""Stage: clients help to uncover the sum."""
STAGES = (KEYS, SHARE, TRAIN, RECOVER)
SENDS = ("difference", "weights")

MOST = 16
"""Messages in a letter; it has one or two for each round."""

T = TypeVar("T")

RECORD = "pyfed"
"""Name of the ConfigRecord of a letter."""
BODIES = "pyfed-messages"
"""Name of the ArrayRecord with its large messages."""
SMALL = 2**16
"""Bytes: a message up to this size goes into the ConfigRecord, which Flower does not cut up."""
STYPE = "pyfed.wire"
"""Serialisation of an array that holds the bytes of a message; its last word may be cut short."""


@dataclass(frozen=True)
class Letter:
    """What one party has to say to another in one Flower message.

    Args:
        stage: one of the stages above.
        messages: bytes of protocol messages.
        client: the number of the client it goes to; -1 where it knows its number by itself.
        enter: the round that the client is to enter; -1 for none.
        protocol: the parameters of a session that is to be entered, packed; else nothing.
        send: what clients send, one of ``SENDS``.
        arrays: name of the ArrayRecord with the model.
        weighted_by: name of the metric that is the weight.
        names: of the arrays that clients vote on, in order; none where they send floats.
    """

    stage: str
    messages: tuple[bytes, ...] = ()
    client: int = -1
    enter: int = -1
    send: str = "difference"
    arrays: str = "arrays"
    weighted_by: str = "num-examples"
    names: tuple[str, ...] = ()
    protocol: bytes = b""


_FIELDS = {"stage": str, "client": int, "enter": int, "send": str, "arrays": str}
_FIELDS |= {"weighted_by": str, "protocol": bytes}
_DEFAULTS = {field.name: field.default for field in fields(Letter) if field.name != "stage"}
"""What is not written, which most of a letter is: Flower checks and copies entry by entry."""


def write(letter: Letter, content: RecordDict) -> None:
    """Put a letter into a message's content; large messages as int32 arrays, 4 bytes a word."""
    told = {name: getattr(letter, name) for name in _FIELDS}
    record: dict[str, Any] = {k: v for k, v in told.items() if v != _DEFAULTS.get(k)}
    small: list[bytes] = []
    bodies: dict[str, Array] = {}
    for data in letter.messages:
        if len(data) <= SMALL:
            small.append(data)
            continue
        shape = (-(-len(data) // 4),)
        bodies[str(len(bodies))] = Array(dtype="int32", shape=shape, stype=STYPE, data=data)
    record |= {"small": small} | ({"names": list(letter.names)} if letter.names else {})
    content[RECORD] = ConfigRecord(record)
    if bodies:
        content[BODIES] = ArrayRecord(bodies)


def take(content: RecordDict) -> Letter | None:
    """Take the letter out of a message's content; None where there is none.

    Raises:
        ProtocolError: what is there is no letter.
    """
    if RECORD not in content.config_records:
        return None
    record = content.config_records.pop(RECORD)
    arrays = content.array_records.pop(BODIES, ArrayRecord())
    given: dict[str, Any] = {}
    for name, kind in _FIELDS.items():
        value = record.get(name, _DEFAULTS.get(name))
        if type(value) is not kind:
            raise ProtocolError(f"a letter's {name} is {value!r}; it must be {kind.__name__}")
        given[name] = value
    if given["stage"] not in STAGES:
        raise ProtocolError(f"a letter's stage is {given['stage']!r}; it must be one of {STAGES}")
    if given["send"] not in SENDS:
        raise ProtocolError(f"a letter's send is {given['send']!r}; it must be one of {SENDS}")
    given["names"] = tuple(_every("names", record.get("names", []), str))
    small = _every("small", record.get("small"), bytes)
    if len(small) + len(arrays) > MOST:
        raise ProtocolError(f"a letter has {len(small) + len(arrays)} messages; it may have {MOST}")
    if sorted(arrays) != sorted(map(str, range(len(arrays)))):
        raise ProtocolError(f"the {len(arrays)} arrays of a letter are not numbered from 0")
    large = [_body(arrays[str(number)]) for number in range(len(arrays))]
    return Letter(messages=(*small, *large), **given)


def _every(name: str, value: object, kind: type[T]) -> list[T]:
    """``value``, which must be a list of that kind."""
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise ProtocolError(f"a letter's {name} must be a list of {kind.__name__}")
    return value


def _body(array: Array) -> bytes:
    told = array.stype, array.dtype, tuple(array.shape)
    if told != (STYPE, "int32", (-(-len(array.data) // 4),)):
        raise ProtocolError("a letter's array does not hold a message of the size that it tells")
    return array.data

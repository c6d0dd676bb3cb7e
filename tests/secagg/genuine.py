"""One genuine message of each type of LightSecAgg, and tools to change their bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg import Message
from pyfed.secagg.wire import kinds_of
from secagg.rounds import one_of_each, protocol

PARAMETERS = protocol().parameters
KINDS = kinds_of(PARAMETERS)
GENUINE = {message.kind: message for _, message, _, _ in one_of_each()}
EVERY = pytest.mark.parametrize("kind", GENUINE)


def sealed(values: Any) -> bytes:
    """Any msgpack value with the digest that a message needs."""
    packed = msgpack.packb(values)
    return packed + hashlib.sha256(packed).digest()


def unsealed(message: Message) -> list[Any]:
    return msgpack.unpackb(message.to_bytes()[:-32])


def expect_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Message.from_bytes(data, PARAMETERS)

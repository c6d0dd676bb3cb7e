"""One genuine message of each type of LightSecAgg, and tools to change their bytes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg import Message
from pyfed.secagg.wire import kinds_of
from secagg.checksums import CHECKSUM, checked
from secagg.rounds import one_of_each, protocol

PARAMETERS = protocol().parameters
KINDS = kinds_of(PARAMETERS)
GENUINE = {message.kind: message for _, message, _, _ in one_of_each()}
EVERY = pytest.mark.parametrize("kind", GENUINE)


def sealed(values: Any) -> bytes:
    """Any msgpack value with the checksum that a message needs."""
    return checked(msgpack.packb(values))


def unsealed(message: Message) -> list[Any]:
    return msgpack.unpackb(message.to_bytes()[:-CHECKSUM])


def expect_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Message.from_bytes(data, PARAMETERS)

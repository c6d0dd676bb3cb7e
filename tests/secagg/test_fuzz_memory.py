"""What a message claims about its size costs no memory: it is refused before it is unpacked."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc

import pytest

from pyfed.errors import ProtocolError
from pyfed.secagg import Message
from pyfed.secagg.session import Parameters
from secagg.checksums import CHECKSUM, checked
from secagg.fuzz import CLAIMS, claiming, from_tree, tree
from secagg.journeys import Scene, letters
from secagg.scenes import EVERY, lightsecagg

SMALL = 400 * 1024
"""Bytes: msgpack's own buffer, of 256 KiB, and the refusal with its traceback."""


def peak_of_reading(data: bytes, parameters: Parameters, text: str = "") -> int:
    """The most memory that is held at once while a message is refused, beside the message."""
    told = None
    with contextlib.suppress(ProtocolError):
        Message.from_bytes(data, parameters)  # what the first call alone imports is no part of it
    tracemalloc.start()
    try:
        Message.from_bytes(data, parameters)
    except ProtocolError as error:
        peak, told = tracemalloc.get_traced_memory()[1], str(error)
    finally:
        tracemalloc.stop()
    assert told is not None and text in told
    return peak


def large() -> tuple[Parameters, list[bytes]]:
    """A session whose uploads have 4 MB, and the small messages of another one like it."""
    scene = lightsecagg("curious")
    parameters = lightsecagg("curious", length=10**6).protocol.parameters
    return parameters, [event.data for event in letters(scene) if event.data]


def with_body(data: bytes, body: bytes) -> bytes:
    """A message whose last field is replaced by raw bytes of msgpack."""
    fields = tree(data)
    packed = from_tree([*fields[:-1], None])[:-CHECKSUM]
    return checked(packed[:-1] + body)


def test_a_small_kind_of_message_may_not_be_large() -> None:
    parameters, (hello, *_) = large()
    for body in (bytes(3 * 10**6), [0] * 3 * 10**6, "x" * 3 * 10**6):
        data = from_tree([*tree(hello)[:-1], body])
        assert peak_of_reading(data, parameters, "more than such a message") < SMALL


def uploads() -> tuple[Parameters, bytes]:
    parameters, messages = large()
    upload = next(data for data in messages if tree(data)[2] == "Upload")
    return parameters, with_body(upload, b"\xdd" + struct.pack(">I", 3 * 10**6) + bytes(3 * 10**6))


def test_a_large_message_may_not_stand_for_many_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three million numbers of one byte would take eight bytes each, or more."""
    parameters, data = uploads()
    assert peak_of_reading(data, parameters, " objects") < SMALL
    monkeypatch.setattr("pyfed.secagg.wire.expect_few_objects", lambda *rest: None)
    assert peak_of_reading(data, parameters) > 10**7


@pytest.mark.parametrize("lead", CLAIMS)
def test_claims_of_four_gigabytes_are_not_believed(lead: bytes) -> None:
    parameters, messages = large()
    for data in messages[:: len(messages) // 8]:
        for size in (2**32 - 1, 2**31, 2**24):
            hostile = with_body(data, lead + struct.pack(">I", size) + b"x")
            assert peak_of_reading(hostile, parameters) < SMALL


def test_deep_arrays_are_refused() -> None:
    parameters, messages = large()
    for data in messages[:: len(messages) // 8]:
        assert peak_of_reading(with_body(data, b"\x91" * 300), parameters) < SMALL


@EVERY
def test_claims_anywhere_in_any_message_cost_nothing(scene: Scene) -> None:
    rng = random.Random(9)
    kinds: dict[str, bytes] = {}
    for event in letters(scene):
        assert event.data is not None
        kinds[tree(event.data)[2]] = event.data
    for data in kinds.values():
        for _ in range(10):
            hostile = claiming(rng, data)
            assert peak_of_reading(hostile, scene.protocol.parameters) < SMALL


@EVERY
def test_every_message_is_within_the_limit_of_its_kind_and_not_far_from_it(scene: Scene) -> None:
    """A limit that is too low refuses genuine messages; one that is too high bounds nothing."""
    parameters = scene.protocol.parameters
    for event in letters(scene):
        assert event.data is not None
        most = type(Message.from_bytes(event.data, parameters)).largest(parameters)
        assert len(event.data) <= most <= 12 * len(event.data)

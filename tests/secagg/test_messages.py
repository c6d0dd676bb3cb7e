"""The bytes of messages: one form, and nothing else is read."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import msgpack

from pyfed.secagg import Message
from pyfed.secagg.messages import Answer, Hello, Inbox, Result, Roster, Share, Survivors, Upload
from pyfed.secagg.session import survivors_digest
from secagg.checksums import CHECKSUM, checked
from secagg.genuine import EVERY, GENUINE, KINDS, PARAMETERS, expect_refused, sealed, unsealed


def test_every_type_is_covered() -> None:
    assert set(GENUINE) | {"Commit", "Quorum"} == set(KINDS)  # those two: test_malicious


@EVERY
def test_messages_come_back_as_they_were(kind: str) -> None:
    message = GENUINE[kind]
    data = message.to_bytes()
    for form in (data, bytearray(data), memoryview(data)):
        again = Message.from_bytes(form, PARAMETERS)  # type: ignore[arg-type]
        assert again == message
        assert type(again) is KINDS[kind]
        assert again.to_bytes() == data
    assert len(data) <= type(message).largest(PARAMETERS)


@EVERY
def test_the_bytes_have_the_documented_form(kind: str) -> None:
    message = GENUINE[kind]
    version, name, kind_, session, number, sender, recipient, signature, *_ = unsealed(message)
    assert (version, name, kind_, signature) == (1, "LightSecAgg", kind, b"")
    assert (session, number) == (message.session, message.round)
    assert (sender, recipient) == (message.sender, message.recipient)
    assert -1 in (sender, recipient)


def test_the_session_hash_is_made_of_the_documented_values() -> None:
    roster = GENUINE["Roster"]
    assert isinstance(roster, Roster)
    field = ["SOLINAS31", 2**31 - 2**17 + 1, "subgroup"]
    numbers = [5, 1, 1, 0, 0, 3, 4]  # N, T, D, E, F, K, length
    parameters = ["LightSecAgg", 1, "curious", field, *numbers, 1.0, 16, 32768.0, 9]
    assert msgpack.unpackb(roster.parameters) == parameters
    members = [[i, key, b""] for i, key, _ in roster.roster]
    everything = msgpack.packb([*parameters, members, bytes(32)])
    assert roster.session == hashlib.sha256(b"pyfed/v1/session" + everything).digest()
    wanted = hashlib.sha256(b"pyfed/v1/parameters" + msgpack.packb(parameters)).digest()
    assert GENUINE["Hello"].session == wanted


def test_the_digest_of_survivors_is_of_their_little_endian_words() -> None:
    packed = bytes([0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0])
    assert survivors_digest((0, 2, 256)) == hashlib.sha256(packed).digest()


@EVERY
def test_every_field_has_its_type(kind: str) -> None:
    values = unsealed(GENUINE[kind])
    assert Message.from_bytes(sealed(values), PARAMETERS) == GENUINE[kind]
    strange = [None, True, 0.5, "text", b"bytes", -(2**63), 2**64 - 1, [], [[]], [None], {}]
    for place in range(len(values)):
        for other in strange:
            if other == values[place] and type(other) is type(values[place]):
                continue  # such as an empty list of complaints
            changed = list(values)
            changed[place] = other
            if (kind, place, other) in ALLOWED:
                Message.from_bytes(sealed(changed), PARAMETERS)
                continue
            expect_refused(sealed(changed))
    for wrong in (values[:-1], [*values, 0], [], [values], {"a": 1}, 5):
        expect_refused(sealed(wrong))


ALLOWED = [  # the right type; the receiver, who knows more, refuses these
    *((kind, 4, 2**64 - 1) for kind in GENUINE),  # another round
    *(("Roster", 8, b"bytes"), ("Roster", 9, [])),
    *(("Share", 8, []), ("Inbox", 8, []), ("Inbox", 9, []), ("Survivors", 8, [])),
]


def replaced(kind: str, **change: Any) -> Message:
    return dataclasses.replace(GENUINE[kind], **change)


def too_large(words: bytes) -> bytes:
    """The first word becomes the modulus."""
    return PARAMETERS.field.modulus.to_bytes(4, "little") + words[4:]


def test_contents_out_of_range_are_refused() -> None:
    upload, answer, result = GENUINE["Upload"], GENUINE["Answer"], GENUINE["Result"]
    share, roster, inbox = GENUINE["Share"], GENUINE["Roster"], GENUINE["Inbox"]
    assert isinstance(upload, Upload) and isinstance(answer, Answer) and isinstance(result, Result)
    assert isinstance(share, Share) and isinstance(roster, Roster) and isinstance(inbox, Inbox)
    (peer, box), *rest = share.boxes
    first, *others = roster.roster
    for bad in (
        replaced("Upload", masked=too_large(upload.masked)),
        replaced("Upload", masked=b"\xff" * len(upload.masked)),
        replaced("Upload", masked=upload.masked[:-4]),
        replaced("Upload", masked=upload.masked + bytes(4)),
        replaced("Upload", complaints=(1,)),  # the sender itself
        replaced("Upload", complaints=(3, 2)),
        replaced("Upload", complaints=(2, 2)),
        replaced("Upload", complaints=(5,)),
        replaced("Answer", row=too_large(answer.row)),
        replaced("Answer", row=answer.row + answer.row),
        replaced("Answer", digest=answer.digest[:-1]),
        replaced("Result", sum=too_large(result.sum)),
        replaced("Result", weight=5 * 9 + 1),
        replaced("Result", weight=-1),
        replaced("Survivors", survivors=(0, 1, 1, 2)),
        replaced("Survivors", survivors=(1, 0, 2, 3)),
        replaced("Survivors", survivors=(0, 1, 2, 5)),
        replaced("Survivors", survivors=(-1, 0, 1, 2)),
        replaced("Share", boxes=((1, box), *rest)),  # to the sender itself
        replaced("Share", boxes=((5, box), *rest)),
        replaced("Share", boxes=((peer, box), (peer, box), *rest)),
        replaced("Share", boxes=tuple(reversed(share.boxes))),
        replaced("Share", boxes=((peer, (*box, *box)), *rest)),
        replaced("Share", boxes=((peer, (box[0] + b"\0",)), *rest)),
        replaced("Share", boxes=((peer, ()), *rest)),
        replaced("Share", boxes=((peer, 5), *rest)),
        replaced("Share", boxes=((peer, box, box), *rest)),
        replaced("Share", boxes=(5, *rest)),
        replaced("Inbox", dealers=(2, 1)),
        replaced("Inbox", boxes=((2, box), *inbox.boxes[2:])),  # from the recipient itself
        replaced("Roster", roster=(first, first, *others)),
        replaced("Roster", roster=(first, first._replace(client=1), *others[1:])),  # one key twice
        replaced("Roster", roster=tuple(reversed(roster.roster))),
        replaced("Roster", roster=(first._replace(channel_key=b"short"), *others)),
        replaced("Roster", roster=(first._replace(signing_key=bytes(32)), *others)),
        replaced("Roster", nonce=bytes(31)),
        replaced("Hello", channel_key=bytes(33)),
        replaced("Hello", signing_key=bytes(32)),
        replaced("Hello", signature=b"signed"),
        replaced("Hello", version=2),
        replaced("Hello", protocol="SwiftAgg"),
        replaced("Hello", sender=-1),
        replaced("Hello", sender=5),
        replaced("Hello", recipient=0),
        replaced("Survivors", sender=0),
        replaced("Survivors", recipient=-1),
        replaced("Survivors", round=-1),
    ):
        expect_refused(bad.to_bytes())


def test_a_second_encoding_of_a_message_is_refused() -> None:
    packed = GENUINE["Survivors"].to_bytes()[:-CHECKSUM]
    assert packed[1] == 1  # the version, in one byte
    longer = packed[:1] + b"\xcc\x01" + packed[2:]
    assert msgpack.unpackb(longer) == msgpack.unpackb(packed)
    expect_refused(checked(longer))


def test_hello_and_survivors_are_small() -> None:
    assert isinstance(GENUINE["Hello"], Hello)
    assert isinstance(GENUINE["Survivors"], Survivors)
    assert len(GENUINE["Hello"].to_bytes()) < 160
    assert len(GENUINE["Survivors"].to_bytes()) < 120

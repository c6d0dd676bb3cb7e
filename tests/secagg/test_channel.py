"""Key agreement, key derivation and boxes, against published vectors and every flipped bit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

import pyfed.secagg.channel as channel
from pyfed import Key
from pyfed.errors import ProtocolError
from pyfed.keys import hkdf_sha256
from pyfed.secagg.channel import ChannelKey, Label, Peers, channel_key, open_into, seal
from pyfed.secagg.digests import fingerprint

LABEL = Label(session=bytes(range(32)), kind="Share", round=7, sender=1, recipient=2)
KEY = Key(bytes(range(32)))
NONCES = Key(bytes(range(32, 64)))


def opened(key: Key, box: tuple[bytes, ...], label: Label, size: int) -> bytes | None:
    out = bytearray(b"\xaa" * size)
    good = open_into(key, box, label, memoryview(out))
    if not good:
        assert out == bytes(size)  # nothing unverified is left behind
        return None
    return bytes(out)


@pytest.mark.parametrize(
    ("secret", "salt", "info", "size", "output"),
    [  # RFC 5869, appendix A.1 to A.3
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x00, 0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
            "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
            "cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)
def test_hkdf_gives_the_vectors_of_rfc_5869(
    secret: str, salt: str, info: str, size: int, output: str
) -> None:
    derived = hkdf_sha256(*(bytes.fromhex(x) for x in (secret, salt, info)), size)
    assert derived.hex() == output


def test_agreement_gives_the_vector_of_rfc_7748_section_6_1() -> None:
    alice, bob = (
        ChannelKey(Key(bytes.fromhex(secret)))
        for secret in (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
        )
    )
    a = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    b = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert (alice.public.hex(), bob.public.hex()) == (a, b)
    assert alice.agree(bob.public).reveal().hex() == shared
    assert bob.agree(alice.public).reveal().hex() == shared


def test_a_segment_is_aes_256_gcm_of_the_gcm_specification() -> None:
    key = Key(bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2))  # test case 16
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    data = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    sealed = channel.seal_segment(key, nonce, data, associated)
    assert sealed[:12] == nonce
    assert sealed[12:].hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


SMALL_ORDER = [  # the points of order 1, 2, 4 and 8 on the curve and its twist, RFC 7748, section 7
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),  # p - 1
    (2**255 - 19).to_bytes(32, "little"),  # p
    (2**255 - 18).to_bytes(32, "little"),  # p + 1
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_an_all_zero_secret_is_refused(public: bytes) -> None:
    with pytest.raises(ProtocolError, match="all-zero"):
        ChannelKey(KEY).agree(public)
    with pytest.raises(ProtocolError, match="all-zero"):
        channel.expect_public(public)


def test_channel_keys_differ_in_every_part_of_their_name() -> None:
    session = bytes(32)
    parts = [
        (session, "share", 3, 1, 2),
        (bytes(31) + b"\1", "share", 3, 1, 2),
        (session, "hop", 3, 1, 2),
        (session, "share", 4, 1, 2),
        (session, "share", 3, 2, 1),
        (session, "share", 3, 1, 3),
    ]
    assert len({channel_key(KEY, *part).reveal() for part in parts}) == len(parts)


def test_a_channel_key_is_hkdf_of_the_documented_name() -> None:
    session = bytes(range(32))
    info = bytes.fromhex(
        "07000000" + b"channel".hex() + "05000000" + b"share".hex()
        + "0300000000000000" + "01000000" + "02000000"
    )  # fmt: skip
    wanted = hkdf_sha256(KEY.reveal(), session, info)
    assert channel_key(KEY, session, "share", 3, 1, 2).reveal() == wanted


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 33, 48])
def test_boxes_open_in_segments_of_any_number(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SEGMENT", 16)
    data = bytes(range(size))
    box = seal(KEY, NONCES, data, LABEL)
    assert [len(s) - 28 for s in box] == [len(data[i : i + 16]) for i in range(0, size or 1, 16)]
    assert opened(KEY, box, LABEL, size) == data
    assert opened(KEY, box, LABEL, size + 1) is None
    assert len({s[:12] for s in box}) == len(box)


def test_every_flipped_bit_of_a_box_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SEGMENT", 8)
    box = seal(KEY, NONCES, b"twenty bytes of data", LABEL)
    for number, segment in enumerate(box):
        for bit in range(8 * len(segment)):
            flipped = bytearray(segment)
            flipped[bit // 8] ^= 1 << bit % 8
            forged = (*box[:number], bytes(flipped), *box[number + 1 :])
            assert opened(KEY, forged, LABEL, 20) is None


def test_segments_cannot_be_moved_dropped_or_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "SEGMENT", 8)
    a, b, c = seal(KEY, NONCES, bytes(24), LABEL)
    for forged in ((b, a, c), (a, b), (a, b, c, c), (a, a, c), (), (a[:20], b, c)):
        assert opened(KEY, forged, LABEL, 24) is None
        assert opened(KEY, forged, LABEL, 8 * len(forged)) is None


@pytest.mark.parametrize(
    "change",
    [{"session": bytes(32)}, {"kind": "Inbox"}, {"round": 8}, {"sender": 3}, {"recipient": 1}],
)
def test_a_box_opens_under_its_own_label_only(change: dict[str, object]) -> None:
    box = seal(KEY, NONCES, b"secret", LABEL)
    assert opened(KEY, box, dataclasses.replace(LABEL, **change), 6) is None  # type: ignore[arg-type]
    assert opened(Key(bytes(32)), box, LABEL, 6) is None
    assert opened(KEY, box, LABEL, 6) == b"secret"


def test_peers_open_what_the_other_sealed_and_not_what_they_sealed_themselves() -> None:
    keys = [ChannelKey(Key(bytes([i]) * 32)) for i in range(1, 4)]
    publics = {i: key.public for i, key in enumerate(keys)}
    parties = [Peers(key, i, publics, bytes(32), 5, NONCES) for i, key in enumerate(keys)]
    box = parties[0].seal(1, "share", "Share", memoryview(b"for you"))
    out = bytearray(7)
    assert parties[1].open_into(0, "share", "Share", box, memoryview(out))
    assert out == b"for you"
    for party, peer in ((0, 1), (2, 0), (1, 2)):
        assert not parties[party].open_into(peer, "share", "Share", box, memoryview(out))


def test_messages_and_channels_import_without_torch() -> None:
    code = (
        "import sys, pyfed.secagg, pyfed.errors, pyfed.secagg.messages, pyfed.secagg.channel\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_equal_plaintexts_give_equal_boxes_and_others_never_share_a_nonce() -> None:
    first, again = (seal(KEY, NONCES, b"the same update", LABEL) for _ in range(2))
    assert first == again
    other = seal(KEY, NONCES, b"another update!", LABEL)
    assert first[0][:12] != other[0][:12]
    elsewhere = seal(KEY, NONCES, b"the same update", dataclasses.replace(LABEL, round=8))
    assert len({first[0][:12], elsewhere[0][:12], other[0][:12]}) == 3
    guessed = seal(KEY, Key(bytes(32)), b"the same update", LABEL)
    assert guessed[0][:12] != first[0][:12]  # a plaintext cannot be confirmed by its nonce


def test_nonces_are_fingerprints() -> None:
    box = seal(KEY, NONCES, b"data", LABEL)
    assert box[0][:12] == fingerprint(NONCES, b"data", LABEL.segment(0, 1))[:12]

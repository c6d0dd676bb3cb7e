"""ChaCha20 words and residues: RFC 8439, addressing, exact rejection."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

import oracles
import pyfed
import pyfed.ops.random as random_ops
from pyfed import MERSENNE31, SOLINAS31, Field, Key
from pyfed.errors import ArgumentError, DtypeError, PyfedError
from pyfed.ops import random_residues, random_words
from runs import Run, runs_of

KEY = Key(bytes(range(32)))
VECTORS = Path(__file__).parents[1] / "vectors"
WORD_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("random_words"))
RESIDUE_RUNS = pytest.mark.parametrize(("op", "run"), runs_of("random_residues"))


def unsigned(words: torch.Tensor) -> list[int]:
    return [w & 0xFFFFFFFF for w in words.tolist()]


def test_the_block_of_rfc_8439_section_2_3_2() -> None:
    vector = json.loads((VECTORS / "chacha20_rfc8439.json").read_text())
    nonce = memoryview(bytes.fromhex(vector["nonce_hex"])).cast("I").tolist()
    key = Key(bytes.fromhex(vector["key_hex"]))
    counters = torch.tensor([vector["counter"]])
    assert random_ops.chacha_blocks(key.words(), counters, nonce).tolist() == [vector["words"]]
    block = oracles.chacha_block(key.reveal(), vector["counter"], tuple(nonce))
    assert list(block) == vector["words"]


@WORD_RUNS
def test_keystreams_of_rfc_8439_appendix_a_1(op: str, run: Run) -> None:
    """Test vectors 1 and 2: key 0, nonce 0, blocks 0 and 1, which are words 0 to 31 of stream 0."""
    stream = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    with run.active():
        got = random_words(Key(bytes(32)), 32, device=run.device)
    assert got.cpu().numpy().tobytes() == stream


@pytest.mark.parametrize(("op", "run"), runs_of("random_words", oracle=True))
def test_words_are_the_keystream_of_openssl(op: str, run: Run) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    count = 2_003 if run.interpreted else 100_003
    for stream, first in ((0, 0), (77, 5), (2**32 - 1, 2**32 - 9000)):
        nonce = first.to_bytes(4, "little") + bytes(4) + stream.to_bytes(4, "little") + bytes(4)
        cipher = Cipher(algorithms.ChaCha20(KEY.reveal(), nonce), mode=None).encryptor()
        wanted = cipher.update(bytes(4 * (count + 3)))[12:]  # from the middle of a block
        with run.active():
            got = random_words(KEY, count, stream, 16 * first + 3, run.device)
        assert got.cpu().numpy().tobytes() == wanted


@RESIDUE_RUNS
def test_any_range_can_be_made_in_any_chunks(op: str, run: Run) -> None:
    base, count = 2**36 - 300, 300
    with run.active():
        for make in (
            lambda n, start: random_words(KEY, n, 5, start, run.device),
            lambda n, start: random_residues(KEY, n, Field("t", 7), 5, start, run.device),
            lambda n, start: random_residues(KEY, n, SOLINAS31, 5, start, run.device),
        ):
            whole = make(count, base)
            for cut in (0, 1, 15, 16, 17, 150, 299, 300):
                parts = make(cut, base), make(count - cut, base + cut)
                assert torch.equal(torch.cat(parts), whole)


@RESIDUE_RUNS
def test_known_answers_whose_first_candidates_are_rejected(op: str, run: Run) -> None:
    vector = json.loads((VECTORS / "residue_rejections.json").read_text())
    key, stream = Key(bytes.fromhex(vector["key_hex"])), vector["stream"]
    found = [f for f in vector["found"] if f["purpose"] == oracles.RESIDUES]
    assert Counter(f["retries"] for f in found) == {1: 2, 2: 1}
    for answer in found:
        field, index = getattr(pyfed, answer["field"]), answer["index"]
        wanted = oracles.residue_attempts(key.reveal(), index, field.modulus, stream=stream)
        assert wanted == (answer["value"], answer["retries"])
        for before in (0, 1, 15, 40):
            with run.active():
                got = random_residues(key, 60, field, stream, index - before, run.device)
            assert int(got[before]) == answer["value"]


@pytest.mark.parametrize("p", [3, 5, 7, 11, 13, 17, 257, 2**31 - 19, 2**30 + 3])
@RESIDUE_RUNS
def test_every_prime_gives_the_residues_of_the_oracle(op: str, run: Run, p: int) -> None:
    """17, 257 and 2^30 + 3 reject nearly every second candidate."""
    count, start = 200, 2**34 + 11
    indices = range(start, start + count)
    wanted = [oracles.residue_attempts(KEY.reveal(), i, p, stream=9) for i in indices]
    if p in (17, 257):
        assert max(attempt for _, attempt in wanted) >= 5
    with run.active():
        got = random_residues(KEY, count, Field("test", p), 9, start, run.device)
    assert got.tolist() == [value for value, _ in wanted]


def inject(monkeypatch: pytest.MonkeyPatch, words_of_attempt: list[int]) -> None:
    """Make the reference's keystream give one chosen word per attempt."""

    def blocks(key: torch.Tensor, counters: torch.Tensor, nonce: list[int]) -> torch.Tensor:
        return torch.full((counters.numel(), 16), words_of_attempt[nonce[2] & 0xFFFF])

    monkeypatch.setattr(random_ops, "chacha_blocks", blocks)


@pytest.mark.parametrize("field", [SOLINAS31, MERSENNE31, Field("tiny", 11)])
def test_the_first_candidate_below_the_modulus_is_taken(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, bits = field.modulus, (field.modulus - 1).bit_length()
    above = [p, 2**bits - 1, p | 2**31]
    for failures in range(16):
        words = [above[i % 3] for i in range(failures)] + [p - 1 + 2**31] + [0] * 16
        inject(monkeypatch, words)
        with pyfed.use_backend("reference"):
            assert random_residues(KEY, 3, field).tolist() == [p - 1] * 3


def test_sixteen_rejected_candidates_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in (SOLINAS31, MERSENNE31):
        inject(monkeypatch, [field.modulus] * 16 + [0])
        with pyfed.use_backend("reference"), pytest.raises(PyfedError, match="16 candidates"):
            random_residues(KEY, 3, field)


@pytest.mark.parametrize("p", [3, 5, 7, 11, 13])
def test_residues_are_exactly_uniform_over_all_candidates(
    p: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over every pair of first and second candidates, each residue comes equally often."""
    size = 1 << (p - 1).bit_length()
    seen: Counter[int] = Counter()
    marker = 0  # third attempts all give 0; they are counted apart
    thirds = 0
    for first in range(size):
        for second in range(size):
            inject(monkeypatch, [first, second, marker])
            with pyfed.use_backend("reference"):
                seen[int(random_residues(KEY, 1, Field("tiny", p))[0])] += 1
            thirds += first >= p and second >= p
    seen[marker] -= thirds
    assert set(seen.values()) == {size + (size - p)}
    assert set(seen) == set(range(p))


@RESIDUE_RUNS
def test_residues_pass_a_chi_square_test(op: str, run: Run) -> None:
    """In 64 classes of the high bits, and of the low ones; 63 degrees of freedom."""
    count = 4_096 if run.interpreted else 1 << 18
    for field in (SOLINAS31, MERSENNE31):
        with run.active():
            got = random_residues(KEY, count, field, stream=1, device=run.device).cpu().long()
        assert 0 <= int(got.min()) <= int(got.max()) < field.modulus
        for classes in (got >> 25, got & 63):
            counts = torch.bincount(classes, minlength=64).double()
            statistic = float(((counts - count / 64) ** 2).sum() / (count / 64))
            assert 25 < statistic < 125  # each side has probability below 10^-5


def test_purposes_fields_and_attempts_never_share_a_nonce() -> None:
    purposes = {v for k, v in vars(random_ops).items() if k in PURPOSE_NAMES}
    assert purposes == set(range(8))
    primes = (0, SOLINAS31.modulus, MERSENNE31.modulus, 2**31 - 2**19 + 1)
    nonces = [
        random_ops.domain(purpose, modulus, attempt)
        for purpose in purposes
        for modulus in primes
        for attempt in range(16)
    ]
    assert len(set(nonces)) == len(nonces) == 8 * 4 * 16
    assert random_ops.domain(3, SOLINAS31.modulus, 2) == 3 << 24 | 1 << 16 | 2


PURPOSE_NAMES = (
    *("WORDS", "RESIDUES", "ROUNDING", "PADDING", "NOISE", "CHALLENGE", "SKETCH", "SELECTION"),
)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"key": bytes(32)}, DtypeError, "key is bytes; it must be a pyfed.Key"),
        ({"count": -1}, ArgumentError, "count is -1; it must be in"),
        ({"count": True}, DtypeError, "count is bool; it must be an int"),
        ({"count": 2.0}, DtypeError, "count is float"),
        ({"stream": 2**32}, ArgumentError, "stream is 4294967296"),
        ({"stream": -1}, ArgumentError, "stream is -1"),
        ({"start": -1}, ArgumentError, "start is -1"),
        ({"start": 2**36 - 2}, ArgumentError, r"start \+ count is 68719476737.*another stream"),
        ({"start": 0.0}, DtypeError, "start is float"),
    ],
)
def test_bad_arguments_are_named(
    arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    given = {"key": KEY, "count": 3, **arguments}
    with pytest.raises(error, match=words):
        random_words(**given)
    with pytest.raises(error, match=words):
        random_residues(**given, field=SOLINAS31)


def test_a_modulus_in_place_of_a_field_is_refused() -> None:
    with pytest.raises(DtypeError, match=r"field is int; it must be a pyfed\.Field"):
        random_residues(KEY, 1, 2**31 - 1)

"""Dealers of inconsistent shares are noticed, and honest ones show nothing of what they dealt."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import oracles
import welch_berlekamp
from pyfed import SOLINAS31, Field, Key, LagrangeCode, dealing, locate
from pyfed.dealing import DealerCheck
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ThresholdError

P = SOLINAS31.modulus
KEY = Key(bytes(range(32)))
COIN = bytes(range(32, 64))
CODE = LagrangeCode(8, 2, 2)
CHECK = DealerCheck(CODE, 5)
DATA = torch.arange(10, dtype=torch.int32)
SHARES, PADS = CODE.encode(DATA, KEY), CHECK.pad(KEY.derive("pad"))


def changed(rows: torch.Tensor, cells: dict[int, int]) -> torch.Tensor:
    bad = rows.clone()
    for row, column in cells.items():
        bad[row, column] = (int(bad[row, column]) + 1 + row) % P
    return bad


def only_one_challenge(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (dealing, locate):
        monkeypatch.setattr(module, "challenge_count", lambda field: 1)


def coefficients(monkeypatch: pytest.MonkeyPatch, values: tuple[int, ...]) -> None:
    def chosen(key: Key, count: int, field: Field, **more: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    monkeypatch.setattr(locate, "random_residues", chosen)


def test_shares_of_one_vector_agree_for_any_holders_that_are_enough() -> None:
    answers = CHECK.respond(COIN, SHARES, PADS)
    for count in (4, 5, 8):
        for holders in itertools.combinations(range(8), count):
            assert CHECK.verdict(answers[list(holders)], holders) == ()
    with pytest.raises(ThresholdError):
        CHECK.verdict(answers[:3], range(3))


@pytest.mark.parametrize("what", ["shares", "pads"])
def test_every_pair_of_holders_that_a_dealer_cheats_is_named(what: str) -> None:
    for cheated in [(i,) for i in range(8)] + list(itertools.combinations(range(8), 2)):
        cells = {holder: holder % 3 for holder in cheated}
        shares = changed(SHARES, cells) if what == "shares" else SHARES
        pads = changed(PADS, cells) if what == "pads" else PADS
        assert CHECK.verdict(CHECK.respond(COIN, shares, pads), range(8)) == cheated


def test_a_holder_that_is_off_in_one_challenge_only_is_named() -> None:
    """Else its lie would have the dealer left out."""
    answers = CHECK.respond(COIN, SHARES, PADS)
    for challenge in range(3):
        assert CHECK.verdict(changed(answers, {2: challenge}), range(8)) == (2,)
    assert CHECK.verdict(changed(answers, {2: 0, 5: 2}), range(8)) == (2, 5)


def test_holders_among_some_that_are_left_are_named_by_their_numbers() -> None:
    answers = CHECK.respond(COIN, changed(SHARES, {5: 4}), PADS)
    left = [7, 5, 3, 2, 0, 1]
    assert CHECK.verdict(answers[left], left) == (5,)


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_a_dealing_beyond_repair_is_refused(count: int) -> None:
    shares = changed(SHARES, {holder: holder % 5 for holder in range(count)})
    with pytest.raises(DecodeError, match="cannot be told") as caught:
        CHECK.verdict(CHECK.respond(COIN, shares, PADS), range(8))
    assert caught.value.rows == ()


def test_answers_are_the_combinations_that_the_coin_fixes() -> None:
    """By the HKDF of another library and Python integers: other parties compute the same."""
    label = b"dealer check"
    info = len(label).to_bytes(4, "little") + label
    key = HKDF(algorithm=SHA256(), length=32, salt=b"pyfed/v1", info=info).derive(COIN)
    wanted = [
        [
            (sum(s * oracles.residue(key, 3 * i + c, P) for i, s in enumerate(share)) + pad[c]) % P
            for c in range(3)
        ]
        for share, pad in zip(SHARES.tolist(), PADS.tolist(), strict=True)
    ]
    assert CHECK.respond(COIN, SHARES, PADS).tolist() == wanted
    one_by_one = [CHECK.respond(COIN, SHARES[j : j + 1], PADS[j : j + 1]) for j in range(8)]
    assert torch.cat(one_by_one).tolist() == wanted


def test_pads_are_uniform_polynomials_of_the_full_degree_one_for_each_challenge() -> None:
    """All K + T coefficients are random words of the key, and none serves twice."""
    key = KEY.derive("pad")
    pads, secret = CHECK.pad(key), key.reveal()
    assert pads.shape == (8, 3)
    data = [oracles.residue(secret, i, P) for i in range(6)]
    wanted = oracles.encode(data, secret, P, 8, 2, 2)
    assert pads.tolist() == wanted
    assert len(set(pads.flatten().tolist())) == 24


@pytest.mark.parametrize(("blocks", "privacy"), [(1, 1), (2, 1)])
def test_all_answers_and_some_shares_tell_nothing_of_the_vector(
    blocks: int, privacy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every vector, every randomness, every pad, a few coins: the same views, equally often."""
    p, n, columns = 5 if blocks == 1 else 7, 3, 2 if blocks == 1 else 1
    threshold = blocks + privacy
    code = LagrangeCode(n, blocks, privacy, Field("tiny", p))
    only_one_challenge(monkeypatch)
    check = DealerCheck(code, columns)
    matrix = code.encoding_matrix().tolist()

    def word(values: tuple[int, ...]) -> list[int]:
        return [sum(a * b for a, b in zip(row, values, strict=True)) % p for row in matrix]

    words = [(values, word(values)) for values in itertools.product(range(p), repeat=threshold)]
    dealt = list(itertools.product(words, repeat=columns + 1))  # columns of the vector, then a pad
    secrets = [tuple(values[:blocks] for values, _ in one[:-1]) for one in dealt]
    shares = torch.tensor([[w for _, w in one[:-1]] for one in dealt], dtype=torch.int32)
    pads = torch.tensor([one[-1][1] for one in dealt], dtype=torch.int32)

    def views(coin: tuple[int, ...], pads: torch.Tensor) -> list[Counter[tuple[int, ...]]]:
        """How often the server and T holders see what, for each vector."""
        coefficients(monkeypatch, coin)
        answers = [check.respond(COIN, shares[:, :, j], pads[:, j : j + 1]) for j in range(n)]
        seen = torch.cat([*answers, shares[:, :, 0], pads[:, :1]], dim=1).tolist()
        found: dict[object, Counter[tuple[int, ...]]] = {}
        for secret, view in zip(secrets, seen, strict=True):
            found.setdefault(secret, Counter())[tuple(view)] += 1
        assert len(found) == p ** (blocks * columns)
        return list(found.values())

    for coin in itertools.islice(itertools.product((1, 3, 0), repeat=columns), 2):
        same = views(coin, pads)
        assert all(view == same[0] for view in same)
    without = views((1,) * columns, torch.zeros_like(pads))  # control: the pad is what hides
    assert any(view != without[0] for view in without)


def test_two_coins_over_one_pad_show_combinations_of_the_vector() -> None:
    """Why a holder answers one coin only."""
    other = bytes(32)
    first, second = (CHECK.respond(coin, SHARES, PADS) for coin in (COIN, other))
    apart = (first - second).remainder(P)
    zero = torch.zeros(5, 3, dtype=torch.int32)
    identity = torch.eye(5, dtype=torch.int32)
    r, s = (CHECK.respond(coin, identity, zero) for coin in (COIN, other))
    wanted = [
        sum(x * (a - b) for x, a, b in zip(DATA[k::2].tolist(), rs, ss, strict=True)) % P
        for rs, ss in zip(r.t().tolist(), s.t().tolist(), strict=True)
        for k in range(2)
    ]
    assert CODE.decode(apart, range(8)).tolist() == wanted


@pytest.mark.parametrize(
    ("cells", "passing"),
    [
        ({0: (1, 0)}, 7),  # one holder cheated: as often as its coefficient is 0
        ({0: (1, 2), 3: (3, 6)}, 7),
        ({0: (1, 0), 3: (0, 1)}, 1),  # two that depend on different coefficients
        ({0: (1, 1), 1: (2, 2), 2: (5, 5)}, 7),
    ],
)
def test_a_challenge_lets_an_inconsistent_dealing_pass_once_in_p_at_most(
    cells: dict[int, tuple[int, int]], passing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all coefficients there are: of 49, 7 at most."""
    code = LagrangeCode(4, 1, 1, Field("tiny", 7))
    only_one_challenge(monkeypatch)
    check = DealerCheck(code, 2)
    shares = code.encode(torch.tensor([3, 6], dtype=torch.int32), KEY)
    for holder, more in cells.items():
        shares[holder] = (shares[holder] + torch.tensor(more)).remainder(7).to(torch.int32)
    pads, passed = check.pad(KEY.derive("pad")), 0
    for coin in itertools.product(range(7), repeat=2):
        coefficients(monkeypatch, coin)
        try:
            passed += check.verdict(check.respond(COIN, shares, pads), range(4)) == ()
        except DecodeError:
            continue
    assert passed == passing


def test_a_dealer_that_knows_the_coin_can_cheat() -> None:
    """Why the coin is drawn after everything is dealt."""
    zero = torch.zeros(5, 3, dtype=torch.int32)
    seen = CHECK.respond(COIN, torch.eye(5, dtype=torch.int32), zero)  # (columns, challenges)
    rows = [[*row[:4], -row[4] % P] for row in seen.t().tolist()]
    unseen = welch_berlekamp.solve(rows, P)
    assert unseen is not None
    shares = SHARES.clone()
    shares[6] = (shares[6] + torch.tensor([*unseen, 1])).remainder(P).to(torch.int32)
    assert CHECK.verdict(CHECK.respond(COIN, shares, PADS), range(8)) == ()
    assert CODE.find_errors(shares, range(8)) == (6,)
    assert CHECK.verdict(CHECK.respond(bytes(32), shares, PADS), range(8)) == (6,)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: DealerCheck(5, 1), DtypeError, "code is int; it must be a pyfed.LagrangeCode"),
        (lambda: DealerCheck(CODE, -1), ArgumentError, "columns is -1"),
        (lambda: CHECK.pad(bytes(32)), DtypeError, "key is bytes"),
        (lambda: CHECK.respond("a" * 32, SHARES, PADS), DtypeError, "coin is str"),
        (lambda: CHECK.respond(bytes(31), SHARES, PADS), ArgumentError, "31 bytes; it must have"),
        (lambda: CHECK.respond(COIN, SHARES[:, 1:], PADS), ArgumentError, r"\(8, 4\).*\(8, 5\)"),
        (lambda: CHECK.respond(COIN, SHARES, PADS[1:]), ArgumentError, r"\(7, 3\).*\(8, 3\)"),
        (lambda: CHECK.respond(COIN, SHARES, PADS[:, 1:]), ArgumentError, "pads is"),
        (lambda: CHECK.respond(COIN, SHARES.long(), PADS), DtypeError, "shares has dtype"),
        (lambda: CHECK.respond(COIN, -1 - SHARES, PADS), ArgumentError, "outside"),
        (lambda: CHECK.respond(COIN, SHARES, -1 - PADS), ArgumentError, "outside"),
        (lambda: CHECK.verdict(PADS[:, 1:], range(8)), ArgumentError, "has 2 columns; it must"),
        (lambda: CHECK.verdict(-1 - PADS, range(8)), ArgumentError, "outside"),
        (lambda: CHECK.verdict(PADS, [0] * 8), ArgumentError, "more than once"),
    ],
)
def test_bad_arguments_are_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()

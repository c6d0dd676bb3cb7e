"""What SecAgg+ sends, equal to an oracle of Python integers; and what it says about an update."""

from __future__ import annotations

import functools
import itertools
import struct
from collections import Counter

import pytest
import scipy.stats
import torch

import pyfed
from pyfed import MERSENNE31, FixedPoint, Key
from pyfed.errors import ProtocolError
from pyfed.lanes import VoteLanes
from pyfed.secagg import SecAggPlus
from pyfed.secagg.channel import ChannelKey
from pyfed.secagg.secaggplus_secrets import pair_key, secret_key, secret_words
from secagg.attacks import secret_of, sent_by, words
from secagg.journeys import Journey, Scene
from secagg.plus_oracle import Plus, pieces, revealed
from secagg.scenes import fixed_point, summing


@functools.cache
def played(field: str) -> tuple[Journey, Plus]:
    """Eight clients on a ring of degree 4, of whom one is lost before it uploads."""
    fixed = fixed_point(8)
    if field == "MERSENNE31":
        fixed = FixedPoint(clip=1.0, bits=16, clients=8, max_weight=9, field=MERSENNE31)
    protocol = SecAggPlus(8, 1, 1, 5, fixed, degree=4, threshold=2)
    journey = Journey(summing("", protocol, 1), round=7, lost=frozenset({(2, 3)})).run()
    return journey, Plus(journey, sent_by(journey, 0, "Share").session)


@pytest.mark.parametrize("field", ["SOLINAS31", "MERSENNE31"])
def test_uploads_are_the_update_and_the_masks_of_the_oracle(field: str) -> None:
    journey, oracle = played(field)
    graph = oracle.graph(list(range(8)))
    assert {len(neighbours) for neighbours in graph.values()} == {4}
    for client in set(range(8)) - {3}:
        own = secret_of(journey, client)
        wanted = oracle.masked(client, own, graph[client])
        assert words(sent_by(journey, client, "Upload").masked) == wanted


def test_boxes_go_to_the_neighbours_and_hold_the_shares_of_the_oracle() -> None:
    journey, oracle = played("SOLINAS31")
    graph = oracle.graph(list(range(8)))
    for client in range(8):
        shares = oracle.shares(client)
        message = sent_by(journey, client, "Share")
        assert [to for to, _ in message.boxes] == graph[client]
        for row, (to, box) in zip(shares, message.boxes, strict=True):
            assert oracle.opened(box, client, to) == row


def test_an_unmask_holds_one_secret_of_each_neighbour_and_never_two() -> None:
    journey, oracle = played("SOLINAS31")
    graph = oracle.graph(list(range(8)))
    rows = {dealer: oracle.shares(dealer) for dealer in range(8)}
    for client in set(range(8)) - {3}:
        message = sent_by(journey, client, "Unmask")
        seeds, keys, pairs = (
            [peer for peer, _ in part] for part in (message.seeds, message.keys, message.pairs)
        )
        assert seeds == [peer for peer in graph[client] if peer != 3]
        assert keys == pairs == [peer for peer in graph[client] if peer == 3]
        for part, columns in ((message.seeds, slice(0, 9)), (message.keys, slice(9, 18))):
            for peer, share in part:
                assert words(share) == rows[peer][graph[peer].index(client)][columns]
        for peer, key in message.pairs:
            assert key == oracle.pair_key(client, peer)


def test_a_threshold_of_shares_gives_the_secret_and_fewer_fit_any() -> None:
    _, oracle = played("SOLINAS31")
    shares = oracle.shares(6)
    for chosen in itertools.combinations(range(4), 2):
        rows = {row: shares[row][:9] for row in chosen}
        assert revealed(rows, 4) == oracle.seeds[6]
    assert shares[0][:9] != pieces(oracle.seeds[6])
    assert revealed({0: shares[0][9:], 1: shares[1][9:]}, 4) == oracle.privates[6]


def test_secrets_survive_their_pieces() -> None:
    for secret in (bytes(32), bytes([255]) * 32, bytes(range(32))):
        assert secret_words(Key(secret)) == pieces(secret)
        found = secret_key(pieces(secret))
        assert found is not None and found.reveal() == secret
    assert secret_key([0] * 8 + [2**16]) is None
    assert secret_key([2**30] + [0] * 8) is None


def test_both_ends_of_a_pair_have_its_key_and_no_other_pair_round_or_session_has() -> None:
    one, two = ChannelKey(Key(bytes([1]) * 32)), ChannelKey(Key(bytes([2]) * 32))
    key = pair_key(one, two.public, bytes(32), 0, 4, 9)
    assert key == pair_key(two, one.public, bytes(32), 0, 9, 4)
    for other in (
        pair_key(one, two.public, bytes(32), 1, 4, 9),
        pair_key(one, two.public, bytes(31) + b"1", 0, 4, 9),
        pair_key(one, two.public, bytes(32), 0, 4, 8),
        pair_key(one, one.public, bytes(32), 0, 4, 9),
    ):
        assert key != other
    with pytest.raises(ProtocolError, match="all-zero secret"):
        pair_key(one, bytes(32), bytes(32), 0, 4, 9)


def tiny_scene(votes: list[list[bool]]) -> Scene:
    """Three voters in the field of five elements: an upload is a vote and the weight 1."""
    protocol = SecAggPlus(3, 1, 0, 1, VoteLanes(clients=3, field=pyfed.Field("tiny", 5)))
    inputs = [(torch.tensor(vote), 1) for vote in votes]
    return Scene("tiny", protocol, inputs, lambda journey: None, lambda arguments: arguments)


@pytest.mark.parametrize("vote", [False, True])
def test_an_upload_is_uniform_to_the_server_and_to_a_neighbour(vote: bool) -> None:
    """Over fresh keys, on a tiny field: alone, and once a colluder has taken its mask away.

    Also once the server knows the own mask: then the mask shared with the honest neighbour hides.
    """
    draws = 500
    seen: dict[str, Counter[tuple[int, ...]]] = {name: Counter() for name in ("", "own", "pair")}
    setting = tiny_scene([[vote], [True], [False]])
    for draw in range(draws):
        journey = Journey(setting, secret=draw % 256, round=draw)
        journey.take_turn()
        journey.take_turn()
        journey.clients_act()
        session = sent_by(journey, 0, "Share").session
        oracle = Plus(journey, session)
        upload = words(sent_by(journey, 0, "Upload").masked)
        for name, key in (("", None), ("own", oracle.seeds[0]), ("pair", oracle.pair_key(0, 2))):
            mask = [0, 0] if key is None else oracle.mask(key)
            seen[name][tuple((a - b) % 5 for a, b in zip(upload, mask, strict=True))] += 1
    for name, counts in seen.items():
        cells = [counts[cell] for cell in itertools.product(range(5), repeat=2)]
        assert scipy.stats.chisquare(cells).pvalue > 1e-6, name


def test_shares_are_packed_as_little_endian_words() -> None:
    journey, oracle = played("SOLINAS31")
    client = 0
    peer, share = sent_by(journey, client, "Unmask").seeds[0]
    row = oracle.shares(peer)[oracle.graph(list(range(8)))[peer].index(client)]
    assert share == struct.pack("<9I", *row[:9])

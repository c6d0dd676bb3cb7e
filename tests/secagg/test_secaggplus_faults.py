"""Bad boxes, wrong shares and lying dealers in SecAgg+: what is repaired, and what is named."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from pyfed.errors import DecodeError, ProtocolError, ThresholdError
from pyfed.secagg import Message, channel, secaggplus_client
from pyfed.secagg.secaggplus_messages import Share, Unmask, Upload
from secagg.attacks import words
from secagg.journeys import Event, Hook, Journey
from secagg.plus_rounds import scene
from secagg.rounds import refuse, replaced


def changing(kind: type[Message], change: Callable[[Any], Any]) -> Hook:
    """Every message of a kind is changed on its way to the server."""

    def hook(journey: Journey, event: Event) -> list[bytes]:
        out = journey.perform(event)
        if event.party < 0:
            return out
        messages = [journey.read(data) for data in out]
        return [(change(m) if isinstance(m, kind) else m).to_bytes() for m in messages]

    return hook


def spoiled(dealer: int, holders: Iterable[int]) -> Hook:
    """The boxes of a dealer for some holders are damaged."""
    chosen = set(holders)

    def change(message: Share) -> Share:
        if message.sender != dealer:
            return message
        boxes = tuple(
            (to, (bytes([box[0][0] ^ 1]) + box[0][1:],) if to in chosen else box)
            for to, box in message.boxes
        )
        return replaced(message, boxes=boxes)

    return changing(Share, change)


def lied(share: bytes) -> bytes:
    """Another share than the true one."""
    first, *rest = words(share)
    return struct.pack(f"<{1 + len(rest)}I", (first + 1) % 2**30, *rest)


def play_to_recover(journey: Journey) -> list[Event]:
    """All phases up to the messages that are on their way to the server in the last one."""
    for _ in range(len(journey.scene.protocol.phases) - 1):
        journey.take_turn()
    return journey.clients_act()


def included(journey: Journey) -> list[int]:
    return sorted(journey.server.result.included)


def test_a_client_with_a_bad_box_complains_and_nobody_leaves() -> None:
    setting = scene(6, 1, 2, threshold=3)
    played = Journey(setting, hook=spoiled(0, {4})).run()
    assert included(played) == list(range(6))
    assert played.server._complaints[4] == (0,)
    lost = frozenset({(3, 1)})  # of five holders of client 0's shares one complains, one is lost
    assert included(Journey(setting, hook=spoiled(0, {4}), lost=lost).run()) == list(range(6))


def test_a_client_that_lies_about_a_box_harms_nobody_and_is_held_to_it() -> None:
    def change(message: Upload) -> Upload:
        return replaced(message, complaints=(1,)) if message.sender == 5 else message

    played = Journey(scene(6, 1, 2), hook=changing(Upload, change))
    events = play_to_recover(played)
    assert played.server._survivors == tuple(range(6))
    for event in events:
        if event.source != 5:
            played.happen(event)
            continue
        with pytest.raises(ProtocolError, match="Unmask must hold a share of the seed of every"):
            played.happen(event)  # it holds a share that it said was bad
    played.server.close_phase()
    played.scene.check(played)


@pytest.mark.parametrize("holders", [{1, 2}, {1, 2, 3}, {1, 2, 3, 4, 5}])
def test_a_dealer_of_more_bad_boxes_than_clients_lie_leaves_and_the_sum_is_exact(
    holders: set[int],
) -> None:
    # From three good shares its key is decoded; from fewer, the pairs' keys are used.
    played = Journey(scene(6, 1, 2, threshold=3), hook=spoiled(0, holders)).run()
    assert included(played) == [1, 2, 3, 4, 5]


def test_a_dead_dealer_without_holders_needs_every_neighbour_and_names_who_is_missing() -> None:
    played = Journey(scene(6, 1, 2, threshold=3), hook=spoiled(0, range(6)))
    events = play_to_recover(played)
    for event in events:
        if event.source != 2:
            played.happen(event)
    with pytest.raises(ThresholdError, match="0 shares of the secret of client 0") as caught:
        played.server.close_phase()
    assert (caught.value.missing, caught.value.needed) == ((2,), 3)
    assert played.server.phase == "recover"
    played.happen(next(event for event in events if event.source == 2))  # late, but in time
    played.server.close_phase()
    played.scene.check(played)


def test_a_survivor_with_too_few_shares_is_named_and_may_get_them_later() -> None:
    played = Journey(scene(6, 1, 2, threshold=3), hook=spoiled(0, {4}))
    events = play_to_recover(played)
    for event in events:
        if event.source not in (1, 2):
            played.happen(event)
    with pytest.raises(ThresholdError, match="2 shares of the secret of client 0") as caught:
        played.server.close_phase()
    assert (caught.value.missing, caught.value.needed) == ((1, 2), 3)
    played.happen(next(event for event in events if event.source == 1))
    played.server.close_phase()
    played.scene.check(played)


def test_dealers_leave_in_turn_until_all_who_stay_have_holders() -> None:
    played = Journey(scene(9, 2, 3, threshold=5))
    for _ in range(2):
        played.take_turn()
    for event in played.clients_act():
        played.happen(event)
    server = played.server
    assert server._kept() == frozenset(range(9))
    server._complaints |= dict.fromkeys((1, 2), (0,))
    assert server._kept() == frozenset(range(9))  # two may lie
    server._complaints[3] = (0,)
    assert server._kept() == frozenset(range(1, 9))  # of three one does not
    server._came -= {7, 8}
    assert server._kept() == frozenset(range(1, 7))  # each has five holders, as many as it needs
    server._complaints[6] = (1,)
    assert server._kept() == frozenset()  # client 1 lacks one and leaves; so do all the others
    with pytest.raises(ThresholdError, match=r"of whom \[0, 1, 2, 3, 4, 5, 6\] dealt badly"):
        server.close_phase()
    assert server.phase == "upload"


def lie(who: set[int], about: int) -> Hook:
    """Some clients tell wrong shares of one client's secret."""

    def change(message: Unmask) -> Unmask:
        if message.sender not in who:
            return message
        seeds, keys = (
            tuple((peer, lied(share) if peer == about else share) for peer, share in part)
            for part in (message.seeds, message.keys)
        )
        return replaced(message, seeds=seeds, keys=keys)

    return changing(Unmask, change)


@pytest.mark.parametrize("errors", [1, 2])
def test_wrong_shares_of_a_seed_are_repaired(errors: int) -> None:
    setting = scene(9, 1, 1, errors=errors)
    for liars in ({3}, {4, 8}):
        if len(liars) <= errors:
            played = Journey(setting, hook=lie(liars, 2), lost=frozenset({(2, 5)})).run()
            assert included(played) == [0, 1, 2, 3, 4, 6, 7, 8]
            assert played.server.result.wrong == tuple(sorted(liars))
    assert Journey(setting).run().server.result.wrong == ()


def test_a_wrong_share_of_a_seed_is_noticed_and_its_holder_named() -> None:
    played = Journey(scene(6, 1, 1), hook=lie({4}, 2))
    with pytest.raises(DecodeError, match=r"client 2's secret .* to clients \[4\];") as caught:
        played.run()
    assert caught.value.rows == (4,)
    assert played.server.phase == "closed"


@pytest.mark.parametrize("liars", [{3}, {0, 3}, {0, 1, 2, 3, 4}])
def test_wrong_shares_of_a_dead_dealers_key_do_no_harm(liars: set[int]) -> None:
    played = Journey(scene(6, 1, 1), hook=lie(liars, 5), lost=frozenset({(2, 5)})).run()
    assert included(played) == [0, 1, 2, 3, 4]


def test_wrong_shares_of_a_dead_dealers_key_and_a_missing_neighbour_end_the_round() -> None:
    lost = frozenset({(2, 5), (3, 1)})
    played = Journey(scene(7, 1, 2), hook=lie({3}, 5), lost=lost)
    with pytest.raises(DecodeError, match=r"client 5 do not give its private key, .* \[1\]"):
        played.run()
    assert played.server.phase == "closed"


def dealing(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[int]], list[int]]) -> None:
    """Client 2 shares, consistently, something else in place of its secrets."""
    original = secaggplus_client.SecAggPlusClient._dealt_boxes
    honest = secaggplus_client.secret_words

    def dealt(self: Any, peers: Any) -> Any:
        if self._number != 2:
            return original(self, peers)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(secaggplus_client, "secret_words", lambda key: change(honest(key)))
            return original(self, peers)

    monkeypatch.setattr(secaggplus_client.SecAggPlusClient, "_dealt_boxes", dealt)


def test_a_dead_dealer_that_shared_another_key_is_uncovered_by_its_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dealing(monkeypatch, lambda pieces: [pieces[0] ^ 256, *pieces[1:]])
    played = Journey(scene(6, 1, 1), lost=frozenset({(2, 2)})).run()
    assert included(played) == [0, 1, 3, 4, 5]


def test_a_box_that_holds_no_residues_is_a_bad_one(monkeypatch: pytest.MonkeyPatch) -> None:
    original = channel.Peers.seal

    def seal(self: Any, peer: int, use: str, kind: str, data: memoryview) -> Any:
        if (self._number, peer) == (0, 4):
            data = memoryview(b"\xff" * len(data))
        return original(self, peer, use, kind, data)

    monkeypatch.setattr(channel.Peers, "seal", seal)
    played = Journey(scene(6, 1, 2)).run()
    assert included(played) == list(range(6))
    assert played.server._complaints[4] == (0,)


def test_a_complaint_about_no_neighbour_that_dealt_is_refused() -> None:
    played = Journey(scene(10, 1, 1, degree=6), lost=frozenset({(1, 9)}))
    for _ in range(2):
        played.take_turn()
    event = played.clients_act()[0]
    message = played.read(event.data or b"")
    graph = played.server._graph
    stranger = next(i for i in range(1, 9) if i not in graph[0])
    for about in (stranger, 9):
        wrong = replaced(message, complaints=(about,))
        refuse(played.server, wrong, 0, "about a client that dealt nothing to it")


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ([0] * 8 + [2**16], "client 2 give no secret of 256 bits"),
        ([2**30] + [0] * 8, "client 2 give no secret of 256 bits"),
        ([5] * 8 + [2**16 - 1], "the weights sum to [0-9]+ and cannot exceed 54"),
    ],
)
def test_a_survivor_that_shared_no_seed_or_another_is_noticed(
    piece: list[int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dealing(monkeypatch, lambda pieces: piece)
    played = Journey(scene(6, 1, 1))
    with pytest.raises(DecodeError, match=text):
        played.run()
    assert played.server.phase == "closed"


def test_a_told_pair_key_that_is_false_spoils_only_what_its_teller_could_spoil() -> None:
    """It is used where the shares give no key; the weights, masked too, then betray it."""

    def change(message: Any) -> Any:
        if isinstance(message, Unmask) and message.sender == 3:
            return replaced(message, pairs=((0, bytes(32)),))
        return message

    spoil = spoiled(0, range(6))

    def hook(journey: Journey, event: Event) -> list[bytes]:
        out = spoil(journey, event)
        return [change(journey.read(data)).to_bytes() for data in out]

    with pytest.raises(DecodeError, match="the weights sum to"):
        Journey(scene(6, 1, 2), hook=hook).run()

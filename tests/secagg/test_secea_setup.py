"""The setup of SecEA, its limits, its server modes, and what its arguments must be."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from pyfed import FixedPoint, Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import ArgumentError, DecodeError, DtypeError, ProtocolError, ThresholdError
from pyfed.lanes import VoteLanes
from pyfed.secagg import Identity, Message
from pyfed.secagg.secea import SecEA
from pyfed.secagg.secea_group import union_seed
from pyfed.secagg.secea_queries import NOTHING
from pyfed.secagg.secea_setup import Setup, union_digest
from pyfed.secagg.union import EntityUnion, pseudonyms
from secagg.rounds import SECRET, derived, refuse
from secagg.secea_rounds import check_result, drive, protocol, set_up, some_entities


@pytest.mark.parametrize("clients", range(3, 14))
@pytest.mark.parametrize(("dropouts", "errors", "detect"), [(0, 0, 0), (2, 0, 0), (1, 1, 1)])
def test_blocks_go_up_to_their_limit_and_no_further(
    clients: int, dropouts: int, errors: int, detect: int
) -> None:
    for privacy in range(1, clients):
        answers = clients - dropouts - 2 * errors - detect
        most = (answers + 1) // 2 - privacy
        more = {"errors": errors, "detect": detect}
        if 1 <= most < clients:
            agreed = protocol(clients, privacy, most, 3, dropouts, **more)
            assert agreed.parameters.needed <= clients - dropouts
        with pytest.raises(ArgumentError, match=r"⌊\(clients - dropouts - .* = ") as caught:
            protocol(clients, privacy, max(most, 0) + 1, 3, dropouts, **more)
        assert f"= {most}, because" in str(caught.value)
        assert ("use blocks" in str(caught.value)) == (most >= 1)


def test_wrong_arguments_are_refused() -> None:
    fixed = FixedPoint(clients=5)
    good: dict[str, Any] = {"clients": 5, "privacy": 1, "blocks": 1, "dim": 2, "fixed": fixed}
    for change, error, text in [
        ({"clients": 2}, ArgumentError, "clients is 2"),
        ({"privacy": 0}, ArgumentError, "privacy is 0"),
        ({"blocks": 0}, ArgumentError, "blocks is 0"),
        ({"dim": 0}, ArgumentError, "dim is 0"),
        ({"dropouts": -1}, ArgumentError, "dropouts is -1"),
        ({"errors": 1.0}, DtypeError, "errors is float"),
        ({"entities": 0}, ArgumentError, "entities is 0"),
        ({"wanted": "9"}, DtypeError, "wanted is str"),
        ({"fixed": VoteLanes(5)}, DtypeError, "it must be a FixedPoint"),
        ({"fixed": FixedPoint(clients=4)}, ArgumentError, r"FixedPoint\(clients=5"),
        ({"server": "kind"}, ArgumentError, "server is 'kind'"),
        ({"server": "malicious"}, ArgumentError, "0 identities are given"),
        ({"entities": 2**25, "wanted": 2**20}, ArgumentError, "at most 2\\^31"),
    ]:
        with pytest.raises(error, match=text):
            SecEA(**{**good, **change})
    agreed = SecEA(**good)
    with pytest.raises(ArgumentError, match="the union is not known yet"):
        agreed.client(0, 0)
    with pytest.raises(ArgumentError, match="the union is not known yet"):
        agreed.server(0)
    with pytest.raises(ArgumentError, match="entities is None"):
        agreed.over(torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(ArgumentError, match="union has 3 rows; entities is 2"):
        agreed.sized(2, 2).over(torch.arange(12, dtype=torch.int32).view(3, 4))
    with pytest.raises(ArgumentError, match="4 entities are given; clients is 5"):
        simulate_secea(agreed, [{}] * 4)
    with pytest.raises(DtypeError, match=r"entities\[1\] is list"):
        simulate_secea(agreed, [{}, [], {}, {}, {}])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="an int must fit into 64 bits"):
        simulate_secea(agreed, [{2**64: torch.zeros(2)}, {}, {}, {}, {}])
    with pytest.raises(ArgumentError, match="it must have every client"):
        simulate_secea(agreed, [{}] * 5, setups={})


def test_a_client_starts_with_its_own_setup_and_exactly_its_entities() -> None:
    run = drive()
    client, own = run.clients[1], run.entities[1]
    assert len(own) > 1
    name = next(iter(own))
    fewer = {entity: row for entity, row in own.items() if entity != name}
    bound, others = set_up(protocol(), some_entities(5, 3, 7))
    assert bound.parameters.union != run.agreed.parameters.union
    for arguments, error, text in [
        ((own, 1), DtypeError, "setup is NoneType"),
        ((own, 1, run.setups[0]), ArgumentError, "setup is of client 0"),
        ((own, 1, others[1]), ArgumentError, "another union"),
        ((fewer, 1, run.setups[1]), ArgumentError, "not exactly"),
        ((list(own), 1, run.setups[1]), DtypeError, "embeddings is list"),
        ((own, 10, run.setups[1]), ArgumentError, "weight is 10"),
        (({**own, name: torch.zeros(4)}, 1, run.setups[1]), ArgumentError, "4 elements"),
        (({**own, name: torch.zeros(3).double()}, 1, run.setups[1]), DtypeError, "float64"),
        (({**own, name: torch.full((3,), torch.nan)}, 1, run.setups[1]), ArgumentError, "NaN"),
    ]:
        with pytest.raises(error, match=text):
            client.start(*arguments)
    many = dataclasses.replace(run.setups[1], ids=tuple(range(99)), positions=(0,) * 99)
    with pytest.raises(ArgumentError, match="has 99 entities; wanted is"):
        client.start(own, 1, many)
    run.until("Answers")  # and after all that it starts as ever
    run.check(range(5))


def test_an_entity_that_is_missing_in_the_union_has_no_result() -> None:
    """With odds of one to the prime the union lacks an entity; its owners get the others."""
    entities = [{"a": torch.ones(3), "b": torch.ones(3)}, {"b": torch.zeros(3)}, {}, {}, {}]
    _, setups = set_up(protocol(), entities)
    group, (lost,) = setups[0].group_key, pseudonyms(setups[0].group_key, ["a"]).tolist()
    union = torch.tensor([row for row in setups[0].union.tolist() if row != lost]).int()
    lacking = {i: Setup.made(i, own, group, union) for i, own in enumerate(entities)}
    assert lacking[0].positions == (NOTHING, 0)
    result = simulate_secea(protocol(), entities, setups=lacking)
    assert result.counts == [{"b": 2}, {"b": 2}, {}, {}, {}]
    assert result.embeddings[0]["b"].tolist() == [0.5] * 3  # type: ignore[index]


def test_setups_tell_entities_and_epochs_apart() -> None:
    bound, setups = set_up(protocol(), [["a", "b"], ["b"], [], [], []])
    one, parameters = setups[0], bound.parameters
    assert one.holds(["b", "a"]) and not one.holds(["a"])
    epoch = one.epoch(parameters)
    assert len(epoch) == 16
    moved = one.moved(["b"])
    assert moved.epoch(parameters) != epoch and moved.union is one.union
    assert one.moved(["a", "b"]).epoch(parameters) != epoch  # fresh randomness, always
    with pytest.raises(ArgumentError, match="more than once"):
        one.moved(["a", "a"])
    with pytest.raises(DtypeError, match="ids is str"):
        one.moved("ab")
    one.wipe()
    assert one.query_key.reveal() == bytes(32)


def group_round(agreed: SecEA, lost: set[int] = frozenset()) -> tuple[Any, list[Any]]:  # type: ignore[assignment]
    """The server and the clients of a group; the lost ones send no parts."""
    group = agreed.group
    server: Any = group.server(0, nonce=bytes(32))
    clients: list[Any] = [
        group.client(i, 0, Key(derived(SECRET, "client", i)))
        for i in range(agreed.parameters.clients)
    ]
    mail: dict[int, Message] = {}
    while server.phase != "done":
        for i, client in enumerate(clients):
            if i in lost and server.phase != "keys":
                continue
            sent = client.start() if server.phase == "keys" else client.handle(mail[i], -1)
            for message in sent:
                server.handle(Message.from_bytes(message.to_bytes(), group.parameters), i)
        mail = {m.recipient: m for m in server.close_phase()}
    return server, clients


def test_a_group_has_one_key_that_every_part_is_in() -> None:
    server, clients = group_round(protocol())
    keys = {client.group_key.reveal() for client in clients}
    assert len(keys) == 1
    assert server.seed == union_seed(clients[0].group_key)
    assert server.seed not in keys
    fewer, rest = group_round(protocol(), lost={1, 3})
    assert fewer.included == {0, 2, 4}
    assert {rest[i].group_key.reveal() for i in (0, 2, 4)}.isdisjoint(keys)
    with pytest.raises(ProtocolError, match="no group key yet"):
        _ = rest[1].group_key
    clients[0].close()
    with pytest.raises(ProtocolError, match="the round is closed, and its key is wiped"):
        _ = clients[0].group_key
    with pytest.raises(ThresholdError):
        group_round(protocol(), lost={1, 2, 3})


def test_a_part_that_is_not_genuine_gives_no_key() -> None:
    agreed = protocol()
    group = agreed.group
    server: Any = group.server(0)
    clients: list[Any] = [group.client(i, 0) for i in range(5)]
    for i, client in enumerate(clients):
        server.handle(client.start()[0], i)
    for message in server.close_phase():
        server.handle(clients[message.recipient].handle(message, -1)[0], message.recipient)
    inbox = {m.recipient: m for m in server.close_phase()}
    good: Any = inbox[0]
    swapped = tuple((i, good.boxes[-1 - at][1]) for at, (i, _) in enumerate(good.boxes))
    refuse(clients[0], dataclasses.replace(good, boxes=swapped), -1, "not genuine")
    refuse(clients[0], dataclasses.replace(good, boxes=good.boxes[:1]), -1, "at least 3")
    (seed,) = clients[0].handle(good, -1)
    server.handle(seed, 0)
    for i in (1, 2, 3):
        server.handle(clients[i].handle(inbox[i], -1)[0], i)
    (own,) = clients[4].handle(inbox[4], -1)
    server.handle(dataclasses.replace(own, seed=bytes(32)), 4)
    with pytest.raises(ProtocolError, match="different keys"):
        server.close_phase()


def test_a_failed_peel_is_tried_again_with_another_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    salts: list[bytes] = []
    peel = EntityUnion.peel

    def stuck(form: EntityUnion, summed: torch.Tensor, salt: bytes) -> torch.Tensor:
        salts.append(salt)
        if len(salts) < 3:
            raise DecodeError("stuck")
        return peel(form, summed, salt)

    monkeypatch.setattr(EntityUnion, "peel", stuck)
    entities = some_entities(5, 3, 8)
    result = simulate_secea(protocol(), entities, key=Key(SECRET))
    assert len(set(salts)) == 3
    check_result(result, protocol(), entities, [1] * 5)


def identities(count: int) -> list[Identity]:
    return [Identity(Key(bytes([i + 1] * 32))) for i in range(count)]


def test_a_malicious_server_is_met_with_signatures_and_quorums() -> None:
    ring = identities(5)
    agreed = protocol(
        dropouts=1, server="malicious", identities=[identity.public for identity in ring]
    )
    entities = some_entities(5, 3, 12)
    assert agreed.phases == ("keys", "share", "upload", "commit", "recover")
    for drop in ({}, {"upload": {3}}, {"commit": {0}}, {"recover": {4}}):
        result = simulate_secea(agreed, entities, drop=drop, key=Key(SECRET), identities=ring)
        check_result(result, agreed, entities, [1] * 5)
        assert len(result.clients) == 5 - bool(drop)
    with pytest.raises(ArgumentError, match=r"clients > 2·dropouts \+ privacy"):
        protocol(server="malicious", identities=[identity.public for identity in ring])


def test_bytes_that_are_damaged_or_made_up_are_refused() -> None:
    rng = random.Random(5)
    run = drive(count=6)
    letters: list[tuple[Any, bytes, int]] = []
    for kind in ("Hello", "Roster", "Share", "Inbox", "Ready", "Sets", "Query", "Questions"):
        for i, message in run.until(kind).items():
            party = run.server if message.recipient == -1 else run.clients[i]
            letters.append((party, message.to_bytes(), message.sender))
        for _, data, _ in letters:
            for _ in range(5):
                bad = bytearray(data)
                bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
                with pytest.raises(ProtocolError):
                    Message.from_bytes(bytes(bad), run.agreed.parameters)
            with pytest.raises(ProtocolError):
                Message.from_bytes(data[: rng.randrange(len(data))], run.agreed.parameters)
        letters = []
    run.until("Answers")
    run.check(range(5))


def test_messages_are_never_larger_than_their_bound() -> None:
    run = drive()
    sizes: dict[type[Message], int] = {}
    for kind in (
        *("Hello", "Roster", "Share", "Inbox", "Ready", "Sets"),
        *("Query", "Questions", "Answer", "Answers"),
    ):
        for message in run.until(kind).values():
            sizes[type(message)] = max(len(message.to_bytes()), sizes.get(type(message), 0))
    assert len(sizes) == 10
    for message_type, size in sizes.items():
        assert size <= message_type.largest(run.agreed.parameters) <= 2 * size + 3000


def test_the_session_is_bound_to_the_union() -> None:
    one, two = (set_up(protocol(), [[name], [], [], [], []])[0] for name in ("a", "b"))
    assert one.parameters.union != two.parameters.union
    assert one.parameters.digest() != two.parameters.digest()
    assert len(union_digest(torch.zeros(0, 4, dtype=torch.int32))) == 32

"""What the functions around SecEA say of wrong arguments, and what they print of secrets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pyfed import Key
from pyfed.engines.secea import simulate_secea
from pyfed.errors import ArgumentError, DtypeError, PyfedError
from pyfed.secagg.secea_setup import Setup
from secagg.rounds import SECRET
from secagg.secea_rounds import drive, protocol, some_entities

GROUP = Key(SECRET)
UNION = torch.tensor([[1, 2, 3, 4], [1, 2, 4, 0], [5, 0, 0, 0]], dtype=torch.int32)

Case = tuple[Any, type[PyfedError], str]
IDS: list[Case] = [
    ([[1]], DtypeError, "an id in ids is list; it must be a str, bytes or int"),
    (["a", 1.5], DtypeError, "an id in ids is float"),
    (["a", True], DtypeError, "an id in ids is bool"),
    ([None], DtypeError, "an id in ids is NoneType"),
    (["a", 10**5000], ArgumentError, "ids is an int of 16610 bits; an int must fit into 64"),
    ([-(2**63) - 1], ArgumentError, "ids is an int of 64 bits"),
    (["a", "b\ud800"], ArgumentError, r"ids is 'b\\ud800', which has no UTF-8 form"),
    (["a", "a"], ArgumentError, "more than once"),
    (7, DtypeError, "ids is int"),
    ("ab", DtypeError, "ids is str"),
]
UNIONS: list[Case] = [
    (None, DtypeError, "union is NoneType"),
    (UNION.long(), DtypeError, "union has dtype torch.int64"),
    (UNION[0], ArgumentError, "1 dimensions"),
    (UNION[:, :3], ArgumentError, r"union has shape \(3, 3\); it must be \(entities, 4\)"),
    (UNION.to("meta"), ArgumentError, "union is on meta; it must be on the CPU"),
    (-UNION, ArgumentError, r"outside \[0, 1073741824\)"),
    (UNION * 2**28, ArgumentError, "outside"),
    (UNION.flip(0), ArgumentError, "rows must ascend"),
    (UNION[[0, 0, 1]], ArgumentError, "rows must ascend"),
    (UNION[[1, 0, 2]], ArgumentError, "rows must ascend"),
]


@pytest.mark.parametrize(("ids", "error", "text"), IDS)
def test_wrong_ids_are_refused(ids: Any, error: type[PyfedError], text: str) -> None:
    setup = Setup.made(0, ["x"], GROUP, UNION)
    with pytest.raises(error, match=text):
        Setup.made(0, ids, GROUP, UNION)
    for method in (setup.moved, setup.holds):
        with pytest.raises(error, match=text):
            method(ids)


@pytest.mark.parametrize(("union", "error", "text"), UNIONS)
def test_wrong_unions_are_refused(union: Any, error: type[PyfedError], text: str) -> None:
    with pytest.raises(error, match=text):
        Setup.made(0, [], GROUP, union)
    with pytest.raises(error, match=text):
        protocol(entities=8, wanted=2).over(union)


def test_unions_of_any_layout_in_memory_are_good() -> None:
    wide = torch.zeros(3, 8, dtype=torch.int32)
    wide[:, ::2] = UNION
    given = protocol(entities=8, wanted=2)
    assert given.over(wide[:, ::2]).parameters.union == given.over(UNION).parameters.union
    assert given.over(UNION[:0]).parameters.entities == 0


def test_ids_at_the_edge_are_good() -> None:
    ids = [-(2**63), 2**64 - 1, "", b"", "\U0010ffff", b"\xff"]
    assert Setup.made(0, ids, GROUP, UNION).ids == tuple(ids)


def test_wrong_maxima_are_refused() -> None:
    for arguments, error, text in [
        (("x", 1), DtypeError, "entities is str"),
        ((1, None), DtypeError, "wanted is NoneType"),
        ((-1, 1), ArgumentError, "entities is -1"),
        ((1, 2**40), ArgumentError, "wanted is"),
    ]:
        with pytest.raises(error, match=text):
            protocol().sized(*arguments)


def test_wrong_arguments_of_a_simulation_are_refused() -> None:
    entities = some_entities(5, 3, 6)
    setups = dict(enumerate(drive().setups.values()))
    other = dict(enumerate(drive(count=4).setups.values()))
    for change, error, text in [
        ({"entities": None}, DtypeError, "entities is NoneType; it must be a list"),
        ({"entities": 3}, DtypeError, "entities is int"),
        ({"entities": dict(enumerate(entities))}, DtypeError, "entities is dict"),
        ({"entities": entities[1:]}, ArgumentError, "4 entities are given"),
        ({"weights": 3}, DtypeError, "weights is int"),
        ({"identities": 3}, DtypeError, "identities is int"),
        ({"setups": list(setups.values())}, DtypeError, "setups is list; it must be a dict"),
        ({"setups": dict.fromkeys(range(5), 1)}, DtypeError, r"setups\[0\] is int"),
        ({"setups": {"0": 1}}, ArgumentError, "it must have every client"),
        ({"setups": {**setups, 1: setups[0]}}, ArgumentError, r"setups\[1\] is of client 0"),
        ({"setups": {**setups, 4: other[4]}}, ArgumentError, r"setups\[4\] is for another union"),
    ]:
        with pytest.raises(error, match=text):
            simulate_secea(protocol(), **{"entities": entities, **change})  # type: ignore[arg-type]


BAD: list[Case] = [
    (torch.zeros(4), ArgumentError, "has 4 elements; dim is 3"),
    (torch.zeros(3, 1), ArgumentError, "has 2 dimensions"),
    (torch.zeros(3).double(), DtypeError, "has dtype torch.float64"),
    ([0.0] * 3, DtypeError, "is list"),
    (torch.tensor([0, torch.nan, 0]), ArgumentError, "is NaN or infinite at index 1"),
    (torch.tensor([0, 0, -torch.inf]), ArgumentError, "is NaN or infinite at index 2"),
]


@pytest.mark.parametrize(("bad", "error", "text"), BAD)
def test_a_wrong_embedding_is_named(bad: Any, error: type[PyfedError], text: str) -> None:
    entities = some_entities(5, 3, 12)
    name = list(entities[2])[-1]
    entities[2][name] = bad
    with pytest.raises(error) as caught:
        simulate_secea(protocol(), entities)
    assert str(caught.value).startswith(f"SecEA: entities[2][{name!r}] {text}")
    run = drive()
    own = {**run.entities[2], name: bad}
    with pytest.raises(error) as caught:
        run.clients[2].start(own, 1, run.setups[2])
    assert str(caught.value).startswith(f"SecEA: client 2: embeddings[{name!r}] {text}")


def test_embeddings_are_looked_at_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfed.engines.secea._set_up", None)  # not reached
    entities = some_entities(5, 3, 6)
    entities[4]["new"] = torch.zeros(2)
    with pytest.raises(ArgumentError, match=r"entities\[4\]\['new'\]"):
        simulate_secea(protocol(), entities)


def test_nothing_secret_is_printed() -> None:
    entities = some_entities(5, 3, 12)
    result = simulate_secea(protocol(), entities, drop={"recover": {4}}, key=Key(SECRET))
    setup = result.setups[2]
    assert repr(setup) == f"Setup(client=2, union of {len(setup.union)} entities, 3 queries held)"
    assert repr(result) == (
        "EmbeddingResult(4 of 5 clients have results, included=[0, 1, 2, 3, 4], failed={}, "
        f"union_size={len(setup.union)})"
    )
    assert repr(result.clients[2]) == "EntityResult(included=[0, 1, 2, 3, 4], wrong=[])"
    several = dataclasses.replace(setup, held={})
    assert repr(several).endswith("0 queries held)")

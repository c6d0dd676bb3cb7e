"""What a simulation of SecEA is given, checked before anything is made or sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg.secea_embeddings import stacked
from pyfed.secagg.secea_setup import EntityId, Setup, expect_ids

NAME = "simulate_secea"


def expect_list(name: str, given: object, count: int) -> None:
    """Raise unless ``given`` is a list with an element for each client."""
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise DtypeError(f"{NAME}: {name} is {type(given).__name__}; it must be a list")
    if len(given) != count:
        raise ArgumentError(f"{NAME}: {len(given)} {name} are given; clients is {count}")


def expect_entities(index: int, own: object, dim: int) -> tuple[EntityId, ...]:
    """The ids of a client's entities; its embeddings are checked before anything is sent."""
    name = f"entities[{index}]"
    if not isinstance(own, Mapping):
        raise DtypeError(f"{NAME}: {name} is {type(own).__name__}; it must be a dict")
    ids = expect_ids(own, name)
    stacked(name, own, ids, dim)
    return ids


def expect_setups(setups: object, count: int) -> Mapping[int, Setup]:
    """``setups``; raises unless they are every client's, over one union, and none is wiped."""
    if not isinstance(setups, Mapping):
        kind = type(setups).__name__
        raise DtypeError(f"{NAME}: setups is {kind}; it must be a dict, client → Setup")
    if setups.keys() != set(range(count)):
        raise ArgumentError(
            f"{NAME}: setups has the clients {list(setups)}; it must have every client, 0 to "
            f"{count - 1}"
        )
    for index in range(count):
        name, setup = f"setups[{index}]", setups[index]
        if not isinstance(setup, Setup):
            raise DtypeError(f"{NAME}: {name} is {type(setup).__name__}; it must be a Setup")
        if setup.client != index:
            raise ArgumentError(
                f"{NAME}: {name} is of client {setup.client}; it must be of client {index}"
            )
        if not torch.equal(setup.union, setups[0].union):
            raise ArgumentError(
                f"{NAME}: {name} is for another union than setups[0]; all must be of one setup"
            )
        setup.expect_unwiped()
    return setups

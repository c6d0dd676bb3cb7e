"""What a caller may get wrong in ``simulate`` and around it has an error of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pyfed
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg import Identity, LightSecAgg, Message, simulate

FIXED = pyfed.FixedPoint(clip=1.0, bits=12, clients=4, max_weight=10)
PROTOCOL = LightSecAgg(clients=4, privacy=1, dropouts=1, length=3, fixed=FIXED)
UPDATES = [torch.full((3,), 0.25 * i) for i in range(4)]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"protocol": "x"}, DtypeError, "protocol is str; it must be a LightSecAgg"),
        ({"updates": None}, DtypeError, "updates is NoneType; it must be a list"),
        ({"updates": UPDATES[:3]}, ArgumentError, "3 updates are given; clients is 4"),
        ({"updates": [u.numpy() for u in UPDATES]}, DtypeError, r"updates\[0\] is ndarray"),
        ({"updates": {0: UPDATES[0]}}, DtypeError, "updates is dict"),
        ({"weights": 5}, DtypeError, "weights is int; it must be a list"),
        ({"weights": [1, 1, -6, 1]}, ArgumentError, r"weights\[2\] is -6"),
        ({"weights": [1, 1, 1, 11]}, ArgumentError, r"weights\[3\] is 11; it must be in \[0, 11\)"),
        ({"weights": [1, 1, 1.5, 1]}, DtypeError, r"weights\[2\] is float"),
        ({"drop": {"keys": 0}}, DtypeError, r"drop\['keys'\] is int; it must be a set"),
        ({"key": b"x" * 32}, DtypeError, "key is bytes; it must be a pyfed.Key"),
    ],
)
def test_a_wrong_argument_of_simulate_is_named(
    change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        simulate(**{"protocol": PROTOCOL, "updates": UPDATES, **change})


@pytest.mark.parametrize(
    ("update", "what"),
    [
        (torch.zeros(4), r"updates\[2\]: .*has 4 elements"),
        (torch.tensor([0.0, torch.nan, 0.0]), r"updates\[2\]: .*NaN"),
        (torch.zeros(3, dtype=torch.int32), r"updates\[2\]: .*int32"),
    ],
)
def test_a_bad_update_is_told_with_the_number_of_its_client(
    update: torch.Tensor, what: str
) -> None:
    with pytest.raises((ArgumentError, DtypeError), match=what):
        simulate(PROTOCOL, [*UPDATES[:2], update, *UPDATES[3:]])


def test_a_malicious_server_needs_identities_in_simulate_too() -> None:
    names = {"clients": 4, "privacy": 1, "dropouts": 1, "length": 3, "fixed": PROTOCOL.fixed}
    ring = [Identity.generate() for _ in range(4)]
    with pytest.raises(ArgumentError, match=r"0 identities are given .* Identity\.public"):
        LightSecAgg(**names, server="malicious")
    wary = LightSecAgg(**names, server="malicious", identities=[i.public for i in ring])
    with pytest.raises(ArgumentError, match="every client's private Identity"):
        simulate(wary, UPDATES)
    assert simulate(wary, UPDATES, identities=ring).total_weight == 4


@pytest.mark.parametrize("weights", [np.array([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4])])
def test_weights_may_come_as_an_array_or_a_tensor(weights: Any) -> None:
    assert simulate(PROTOCOL, UPDATES, weights=weights).total_weight == 10


def test_a_device_that_is_not_here_is_refused_at_once() -> None:
    with pytest.raises(ArgumentError, match="torch knows no such device"):
        PROTOCOL.server(0, device="bogus")
    with pytest.raises(DtypeError, match="device is int"):
        PROTOCOL.server(0, device=3)  # type: ignore[arg-type]


def test_a_journal_that_cannot_record_is_refused_at_once() -> None:
    with pytest.raises(DtypeError, match="journal is str; it must have a method record"):
        PROTOCOL.client(0, 0, journal="x")  # type: ignore[arg-type]


def test_reading_a_message_takes_the_parameters() -> None:
    with pytest.raises(DtypeError, match=r"pass protocol\.parameters"):
        Message.from_bytes(b"abc", PROTOCOL)  # type: ignore[arg-type]

"""Numbers, updates and weights that are refused, with what they were and must be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyfed import FixedPoint
from pyfed.errors import ArgumentError, DtypeError
from pyfed.secagg import LightSecAgg, simulate
from secagg.rounds import Round, protocol, some_updates

BAD_PROTOCOLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"clients": 2}, ArgumentError, "clients is 2"),
    ({"clients": 5000}, ArgumentError, "clients is 5000"),
    ({"clients": 5.0}, DtypeError, "clients is float"),
    ({"privacy": 0}, ArgumentError, "privacy is 0"),
    ({"privacy": True}, DtypeError, "privacy is bool"),
    ({"dropouts": -1}, ArgumentError, "dropouts is -1"),
    ({"length": -1}, ArgumentError, "length is -1"),
    ({"length": 2**29}, ArgumentError, "length is 536870912"),
    ({"privacy": 3}, ArgumentError, r"5 - 1 - 3 = 1; it must be at least 2"),
    ({"dropouts": 3}, ArgumentError, r"5 - 3 - 1 = 1; it must be at least 2"),
    ({"errors": 2}, ArgumentError, r"5 - 1 - 1 - 2·2 - 0 = -1; it must be at least 1"),
    ({"detect": 3}, ArgumentError, r"5 - 1 - 1 - 2·0 - 3 = 0; it must be at least 1"),
    ({"server": "honest"}, ArgumentError, "must be one of"),
    ({"server": "malicious"}, ArgumentError, "0 identities are given and clients is 5"),
    ({"server": "malicious", "identities": 5}, DtypeError, "identities is int"),
    ({"server": "malicious", "identities": [bytes(32)] * 5}, ArgumentError, "to two clients"),
    ({"server": "malicious", "identities": [b""] * 5}, ArgumentError, r"identities\[0\] must be"),
    ({"server": "malicious", "dropouts": 2}, ArgumentError, r"clients > 2·dropouts \+ privacy"),
    ({"identities": [bytes(32)]}, ArgumentError, "used with server='malicious' only"),
    ({"fixed": FixedPoint(clients=4)}, ArgumentError, "sums of 4 clients and clients is 5"),
    ({"fixed": 16}, DtypeError, "fixed is int"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD_PROTOCOLS)
def test_numbers_that_do_not_fit_are_refused(
    change: dict[str, Any], error: type[Exception], text: str
) -> None:
    fixed = FixedPoint(clients=5)
    good: dict[str, Any] = {
        "clients": 5,
        "privacy": 1,
        "dropouts": 1,
        "length": 4,
        "fixed": fixed,
    }
    LightSecAgg(**good)
    with pytest.raises(error, match=text):
        LightSecAgg(**(good | change))


UPDATE = torch.zeros(4)
BAD_INPUTS: list[tuple[Any, Any, type[Exception], str]] = [
    (UPDATE.double(), 1, DtypeError, "float64"),
    (UPDATE.int(), 1, DtypeError, "int32"),
    ([0.0] * 4, 1, DtypeError, "list"),
    (torch.zeros(5), 1, ArgumentError, "5 elements; length is 4"),
    (torch.zeros(3), 1, ArgumentError, "3 elements; length is 4"),
    (torch.zeros(2, 2), 1, ArgumentError, "2 dimensions"),
    (torch.tensor([0, float("nan"), 0, 0]), 1, ArgumentError, "NaN"),
    (torch.tensor([0, 0, 0, float("-inf")]), 1, ArgumentError, "infinite"),
    (UPDATE, -1, ArgumentError, "weight is -1"),
    (UPDATE, 10, ArgumentError, "weight is 10; it must be from 0 to max_weight = 9"),
    (UPDATE, 0.5, DtypeError, "weight is 0.5"),
    (UPDATE, True, DtypeError, "bool"),
]


@pytest.mark.parametrize(("update", "weight", "error", "text"), BAD_INPUTS)
def test_bad_updates_and_weights_are_refused_and_start_may_be_tried_again(
    update: Any, weight: Any, error: type[Exception], text: str
) -> None:
    run = Round(protocol())
    with pytest.raises(error, match=text):
        run.clients[0].start(update, weight)
    run.send("keys")
    run.finish()


def test_simulate_refuses_what_does_not_fit() -> None:
    agreed, updates = protocol(), some_updates(5, 4)
    for more, error, text in (
        ({"weights": [1] * 4}, ArgumentError, "4 weights are given; clients is 5"),
        ({"drop": {"upload": {5}}}, ArgumentError, "a client in drop is 5"),
        ({"drop": {"upload": {"1"}}}, DtypeError, "a client in drop is str"),
        ({"drop": {"masking": {1}}}, ArgumentError, "phases are keys, share, upload, recover"),
        ({"drop": {"keys": {1}, "share": {1}}}, ArgumentError, "client 1 in two phases"),
        ({"drop": [1]}, DtypeError, "drop is list"),
        ({"key": bytes(32)}, DtypeError, "key is bytes"),
        ({"round": -1}, ArgumentError, "round is -1"),
    ):
        with pytest.raises(error, match=text):
            simulate(agreed, updates, **more)
    with pytest.raises(ArgumentError, match="4 updates are given; clients is 5"):
        simulate(agreed, updates[:4])
    with pytest.raises(ArgumentError, match="nonce must be 32 bytes"):
        agreed.server(0, nonce=b"short")
    with pytest.raises(ArgumentError, match="index is 5"):
        agreed.client(5, 0)

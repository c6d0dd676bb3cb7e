"""LightSecAgg over WIDE: exact beyond one prime, twice the words, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import oracles
from pyfed import WIDE, FixedPoint, Key
from pyfed.errors import ArgumentError, DecodeError
from pyfed.secagg import LightSecAgg, SecAggPlus, SecEA, SwiftAgg, simulate
from pyfed.secagg.messages import Answer, Upload
from secagg.journeys import Journey
from secagg.rounds import (
    SECRET,
    Round,
    client_secret,
    derived,
    exact_sum,
    protocol,
    refuse,
    replaced,
    some_updates,
)
from secagg.scenes import summing
from secagg.test_wiping import Recorder
from wide_cases import PRIMES

pytestmark = pytest.mark.usefixtures("same_chance")


def wide(clients: int = 5, max_weight: int = 2**31 - 1, **more: Any) -> LightSecAgg:
    """Weights that alone exceed a prime of either plane."""
    fixed = FixedPoint(clip=1.0, bits=24, clients=clients, max_weight=max_weight, field=WIDE)
    return protocol(clients, fixed=fixed, **more)


@pytest.mark.parametrize("drop", [{}, {"share": {0}}, {"upload": {2}}, {"recover": {4}}])
def test_sums_beyond_one_prime_are_those_of_python_integers(drop: dict[str, set[int]]) -> None:
    agreed = wide(length=9)
    updates, weights = some_updates(5, 9), [2**31 - 1, 2**31 - 2, PRIMES[1], 3, 0]
    result = simulate(agreed, updates, weights, drop=drop, key=Key(SECRET))
    wanted = exact_sum(agreed, updates, weights, result.included)
    assert max(map(abs, wanted)) > 2**50
    assert result.integers.tolist() == wanted
    assert result.total_weight == sum(weights[i] for i in result.included)
    floats = torch.tensor(wanted).to(torch.float32) / agreed.fixed.scale
    assert torch.equal(result.sum, floats)
    assert torch.equal(result.mean, floats / result.total_weight)


def test_every_message_holds_two_planes_and_fits_its_limit() -> None:
    bytes_of = {}
    for field, fixed in (("one", None), ("two", wide().fixed)):
        agreed = protocol(5, length=1000, fixed=fixed)
        bytes_of[field] = simulate(agreed, some_updates(5, 1000), key=Key(SECRET)).traffic
    for (role, phase), count in bytes_of["two"].items():
        ratio = count / bytes_of["one"][role, phase]
        assert ratio < 1.05 if phase == "keys" else 1.9 < ratio < 2.0 or role == "server", phase


def test_a_wrong_answer_in_either_plane_is_repaired_or_noticed() -> None:
    for plane in (0, 1):
        run = Round(wide(7, dropouts=1, errors=1, detect=1, length=8))
        run.play("recover")
        answer = run.upwards[3]
        assert isinstance(answer, Answer)
        columns = run.agreed.parameters.columns
        for client in (3, 5):
            words = bytearray(run.upwards[client].row)  # type: ignore[attr-defined]
            words[4 * columns * plane] ^= 1
            run.upwards[client] = replaced(run.upwards[client], row=bytes(words))
            if client == 3:
                once = dict(run.upwards)
        two, run.upwards = run.upwards, once
        run.finish()
        assert run.server.result.wrong == (3,)
        again = Round(wide(7, dropouts=1, errors=1, detect=1, length=8))
        again.play("recover")
        again.upwards = two
        again.collect()
        with pytest.raises(DecodeError, match="contradict"):
            again.close()


def test_words_that_are_no_residues_of_their_plane_are_refused() -> None:
    run = Round(wide())
    run.play("upload")
    upload = run.upwards[1]
    assert isinstance(upload, Upload)
    size = 4 * run.agreed.parameters.width
    for plane, p in enumerate(PRIMES):
        words = bytearray(upload.masked)
        words[size * plane : size * plane + 4] = p.to_bytes(4, "little")
        refuse(run.server, replaced(upload, masked=bytes(words)), 1, "residues below")
    refuse(run.server, replaced(upload, masked=upload.masked[:size]), 1, "bytes")
    run.finish()


def test_a_box_that_holds_no_residues_of_its_plane_is_complained_about() -> None:
    run = Round(wide(dropouts=1))
    run.play("keys")
    run.collect()
    run.close()
    dealer = run.clients[2]
    honest = dealer._dealt_shares

    def forged() -> torch.Tensor:
        rows = honest()
        rows[0, -1] = PRIMES[1]  # the last word of the second plane, for client 0
        return rows

    dealer._dealt_shares = forged  # type: ignore[method-assign]
    run.send("share")
    run.collect()
    run.close()
    run.send("upload")
    assert [m.complaints for m in run.upwards.values()] == [  # type: ignore[attr-defined]
        (2,),
        (),
        (),
        (),
        (),
    ]
    run.finish()


@pytest.mark.parametrize("mode", ["curious", "malicious"])
def test_parties_that_are_saved_and_resumed_give_the_same_sum(mode: str) -> None:
    from secagg.scenes import told

    fixed = FixedPoint(clip=1.0, bits=24, clients=5, max_weight=2**31 - 1, field=WIDE)
    agreed = LightSecAgg(5, 1, 1, 6, fixed, **told(mode, 5))
    journey = Journey(summing("LightSecAgg over WIDE", agreed, 1))
    while journey.server.phase != "done":
        journey.take_turn()
        for party in (2, -1):
            journey.resumed(party, journey.saved(party))
    journey.scene.check(journey)


def test_masks_and_shares_are_gone_after_the_phase_that_needs_them() -> None:
    run = Round(wide(length=4))
    run.play("keys")
    run.collect()
    run.close()
    width = run.agreed.parameters.width
    masks, dealt = {}, {}
    for client in range(5):
        keys = [derived(client_secret(client), label) for label in ("mask", "padding")]
        masks[client] = [[oracles.residue(keys[0], i, p) for i in range(width)] for p in PRIMES]
        dealt[client] = [
            oracles.encode(mask, keys[1], p, 5, 3, 1)
            for mask, p in zip(masks[client], PRIMES, strict=True)
        ]
    secret = {word for mask in masks[2] for word in mask}
    received = {word for rows in dealt.values() for plane in rows for word in plane[3]}
    with Recorder() as recorder:
        run.send("share")
    assert recorder.found(secret) == 0  # they are drawn again for the upload
    assert run.clients[2]._own[0].tolist() == [*dealt[2][0][2], *dealt[2][1][2]]
    others = {word for plane in dealt[2] for i, row in enumerate(plane) if i != 2 for word in row}
    assert recorder.found(others) == 0
    run.collect()
    run.close()
    with recorder:
        run.send("upload")
    assert recorder.found(secret) == 0
    assert recorder.found(received) == len(received)
    run.collect()
    run.close()
    with recorder:
        run.send("recover")
    assert recorder.found(received) == 0
    run.collect()
    rows = set(run.server._answers.reshape(-1).tolist())
    with Recorder() as closing:
        run.close()
    assert closing.found(rows) == 0


NUMBERS: dict[str, Any] = {"clients": 6, "privacy": 1, "dropouts": 1}
FIXED = FixedPoint(clients=6, field=WIDE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SwiftAgg(**NUMBERS, blocks=1, length=5, fixed=FIXED),
        lambda: SecAggPlus(clients=6, privacy=1, dropouts=1, length=5, fixed=FIXED),
        lambda: SecEA(clients=6, privacy=1, blocks=1, dim=4, fixed=FIXED),
        lambda: LightSecAgg(**NUMBERS, length=5, fixed=FIXED, detect=1, check_dealers=True),
    ],
    ids=["SwiftAgg", "SecAggPlus", "SecEA", "checked dealers"],
)
def test_what_works_on_one_prime_alone_refuses_two(make: Any) -> None:
    with pytest.raises(ArgumentError, match="WIDE, which has two planes; it must be one prime"):
        make()

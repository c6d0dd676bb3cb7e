"""A whole round: exact sums, lost clients, weights, wrong rows, and arguments that are refused."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch

import pyfed
from pyfed import MERSENNE31, FixedPoint, Key
from pyfed.errors import ArgumentError, DecodeError, ThresholdError
from pyfed.secagg import LightSecAgg, simulate
from pyfed.secagg.messages import Answer
from pyfed.secagg.session import SEALING
from secagg.rounds import PHASES, SECRET, Round, exact_sum, protocol, replaced, some_updates


def expect_exact(
    agreed: LightSecAgg, drop: dict[str, set[int]] | None = None, seed: int = 1, **more: Any
) -> None:
    """A simulated round equals the sum in Python integers over exactly the right clients."""
    p = agreed.parameters
    updates = some_updates(p.clients, p.length, seed)
    weights = [random.Random(seed + i).randint(0, p.max_weight) for i in range(p.clients)]
    drop = drop or {}
    result = simulate(agreed, updates, weights, drop=drop, key=Key(SECRET), **more)
    outside = set().union(*(drop.get(phase, set()) for phase in ("keys", "share", "upload")))
    assert result.included == set(range(p.clients)) - outside
    wanted = exact_sum(agreed, updates, weights, result.included, more.get("round", 0))
    assert result.integers.dtype == torch.int64
    assert result.integers.tolist() == wanted
    assert result.total_weight == sum(weights[i] for i in result.included)
    assert result.sum.dtype == torch.float32
    floats = torch.tensor(wanted, dtype=torch.int64).to(torch.float32) / agreed.fixed.scale
    assert torch.equal(result.sum, floats)
    residues = torch.tensor([w % p.field.modulus for w in wanted], dtype=torch.int32)
    assert torch.equal(result.sum, agreed.fixed.decode(residues))
    if result.total_weight:
        assert torch.equal(result.mean, floats / result.total_weight)


@pytest.mark.parametrize(
    ("clients", "privacy", "dropouts", "length", "more"),
    [
        (3, 1, 0, 1, {}),
        (3, 1, 0, 0, {}),
        (4, 1, 1, 5, {}),
        (4, 2, 0, 3, {}),
        (7, 2, 2, 33, {}),
        (9, 2, 1, 8, {"errors": 1, "detect": 1}),
        (12, 5, 5, 7, {}),
        (20, 5, 4, 100, {}),
    ],
)
def test_sums_equal_python_integers(
    clients: int, privacy: int, dropouts: int, length: int, more: dict[str, Any]
) -> None:
    agreed = protocol(clients, privacy, dropouts, length, **more)
    expect_exact(agreed)
    p = agreed.parameters
    k = clients - dropouts - privacy - 2 * p.errors - p.detect
    assert (p.blocks, p.columns, agreed.code.threshold) == (k, -(-(length + 1) // k), k + privacy)


def test_the_other_field_and_other_bits_are_exact() -> None:
    fixed = FixedPoint(clip=0.75, bits=20, clients=6, max_weight=3, field=MERSENNE31)
    expect_exact(protocol(6, 2, 1, 9, fixed=fixed), {"upload": {4}})
    expect_exact(protocol(6, 2, 1, 9, fixed=fixed), round=2**64 - 1)


def test_the_largest_sum_does_not_wrap() -> None:
    fixed = FixedPoint(clip=1.0, bits=16, clients=3, max_weight=32_766 // 3)
    agreed = protocol(3, 1, 0, 2, fixed=fixed)
    updates = [torch.tensor([1.0, -1.0])] * 3
    result = simulate(agreed, updates, weights=[fixed.max_weight] * 3)
    assert result.integers.tolist() == [32_766 * 32_768, -32_766 * 32_768]
    assert result.mean.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("client", range(5))
def test_any_client_may_be_lost_in_any_phase(phase: str, client: int) -> None:
    expect_exact(protocol(), {phase: {client}}, seed=client)


def pairs_of_drops(clients: int) -> list[dict[str, set[int]]]:
    drops = []
    for one, two in itertools.combinations(range(clients), 2):
        for first, second in itertools.product(PHASES, PHASES):
            drop: dict[str, set[int]] = {first: {one}}
            drop.setdefault(second, set()).add(two)
            drops.append(drop)
    return drops


def test_one_client_may_be_lost_in_each_phase() -> None:
    agreed = protocol(9, 2, 4, 6)
    expect_exact(agreed, {"keys": {8}, "share": {0}, "upload": {3}, "recover": {5}})
    expect_exact(agreed, {"recover": {0, 1, 2, 3}})
    expect_exact(agreed, {"keys": {0, 1, 2, 3}})


@pytest.mark.slow
def test_any_two_clients_may_be_lost_in_any_two_phases() -> None:
    agreed = protocol(7, 2, 2, 3)
    drops = pairs_of_drops(7)
    assert len(drops) == 21 * 16
    for seed, drop in enumerate(drops):
        expect_exact(agreed, drop, seed=seed)


@pytest.mark.parametrize("phase", PHASES)
def test_too_many_lost_clients_are_named(phase: str) -> None:
    agreed = protocol(6, 2, 1, 3)
    updates = some_updates(6, 3)
    with pytest.raises(ThresholdError, match=r"missing are \[1, 4\]") as caught:
        simulate(agreed, updates, drop={phase: {4, 1}})
    assert caught.value.missing == (1, 4)
    assert caught.value.needed == 5
    with pytest.raises(ThresholdError) as caught:
        simulate(agreed, updates, drop={"keys": {0}, "recover": {5}})
    assert caught.value.missing == (0, 5)


def test_a_phase_that_has_too_few_may_be_closed_later() -> None:
    run = Round(protocol())
    run.send("keys")
    late = {i: run.upwards.pop(i) for i in (3, 4)}
    run.collect()
    assert run.server.waiting == {3, 4}
    with pytest.raises(ThresholdError):
        run.server.close_phase()
    run.upwards = late
    run.finish()


@pytest.mark.parametrize(("errors", "detect"), [(1, 0), (0, 2), (1, 1), (2, 0)])
def test_wrong_answers_are_repaired_or_noticed(errors: int, detect: int) -> None:
    agreed = protocol(9, 2, 1, 5, errors=errors, detect=detect)

    def answered(liars: set[int]) -> Round:
        run = Round(agreed)
        run.play("recover", lost={8})
        for liar in liars:
            message = run.upwards[liar]
            assert isinstance(message, Answer)
            row = bytearray(message.row)
            row[4 * (liar % agreed.parameters.columns)] ^= 1
            run.upwards[liar] = replaced(message, row=bytes(row))
        run.collect()
        return run

    run = answered(set(range(2, 2 + errors)))
    run.server.close_phase()
    wanted = exact_sum(agreed, run.updates, run.weights, range(8))
    assert run.server.result.integers.tolist() == wanted
    assert run.server.result.wrong == tuple(range(2, 2 + errors))
    for more in range(errors + 1, errors + detect + 1):
        run = answered(set(range(more)))
        with pytest.raises(DecodeError, match=f"answers contradict.*errors is {errors}") as caught:
            run.server.close_phase()
        if 2 * more <= 2 * errors + detect:  # few enough to be told from the others
            assert caught.value.rows == tuple(range(more))
            assert f"due to clients {list(range(more))}" in str(caught.value)
        assert run.server.phase == "closed"


def test_weights_that_cannot_be_are_noticed() -> None:
    agreed = protocol()
    run = Round(agreed)
    run.play("recover")
    first, modulus = run.server._uploads[0], agreed.fixed.field.modulus
    weight = (int.from_bytes(first[-4:], "little") + 10**6) % modulus
    run.server._uploads[0] = first[:-4] + weight.to_bytes(4, "little")
    run.collect()
    with pytest.raises(DecodeError, match="weights sum to"):
        run.server.close_phase()
    assert run.server.phase == "closed"


def test_one_key_gives_one_round_and_fresh_keys_give_the_same_sum_but_for_rounding() -> None:
    agreed = protocol(5, 1, 1, 50)
    updates = some_updates(5, 50)
    one, two = (simulate(agreed, updates, key=Key(SECRET)) for _ in range(2))
    assert torch.equal(one.integers, two.integers)
    assert one.traffic == two.traffic
    fresh, again = (simulate(agreed, updates) for _ in range(2))
    assert not torch.equal(fresh.integers, again.integers)
    assert int((fresh.integers - one.integers).abs().max()) <= 5
    other_round = simulate(agreed, updates, key=Key(SECRET), round=1)
    assert not torch.equal(other_round.integers, one.integers)


def test_the_key_of_the_caller_is_left_alone() -> None:
    key = Key(SECRET)
    simulate(protocol(), some_updates(5, 4), key=key)
    assert key.reveal() == SECRET


def test_traffic_is_what_the_documented_sizes_say() -> None:
    agreed = protocol(6, 2, 1, 40)
    result = simulate(agreed, some_updates(6, 40), drop={"upload": {5}})
    assert set(result.traffic) == {
        (role, phase) for role in ("client", "server") for phase in PHASES
    }
    assert set(result.seconds) == set(PHASES)
    assert all(seconds > 0 for seconds in result.seconds.values())
    share, frame = 4 * agreed.parameters.columns + SEALING, 200
    for (role, phase), least, messages in (
        (("client", "keys"), 6 * 32, 6),
        (("server", "keys"), 6 * 6 * 32, 6 * 7),
        (("client", "share"), 6 * 5 * share, 6 * 6),
        (("server", "share"), 6 * 5 * share, 6 * 6),
        (("client", "upload"), 5 * 4 * 41, 5),
        (("server", "upload"), 5 * 5, 5),
        (("client", "recover"), 5 * 4 * agreed.parameters.columns, 5),
        (("server", "recover"), 5 * 4 * 40, 5),
    ):
        assert least < result.traffic[role, phase] < least + frame * messages, (role, phase)


def test_weights_of_zero_count_as_members_and_need_a_positive_one_for_a_mean() -> None:
    agreed = protocol()
    updates = some_updates(5, 4)
    result = simulate(agreed, updates, weights=[0, 0, 3, 0, 0], key=Key(SECRET))
    assert result.total_weight == 3
    assert torch.allclose(result.mean, updates[2].clamp(-1, 1), atol=2**-15)
    nothing = simulate(agreed, updates, weights=[0] * 5)
    assert nothing.sum.tolist() == [0.0] * 4
    assert len(nothing.included) == 5
    with pytest.raises(ArgumentError, match="weight 0"):
        _ = nothing.mean


def test_updates_may_be_rows_half_precision_or_parameters() -> None:
    agreed = protocol(4, 1, 1, 6)
    rows = torch.stack(some_updates(4, 6)).clamp(-1, 1)
    wanted = rows.mean(0)
    for updates in (rows, list(rows), rows.t().contiguous().t(), rows.clone().requires_grad_()):
        assert torch.allclose(simulate(agreed, updates).mean, wanted, atol=2**-14)
    assert torch.allclose(simulate(agreed, rows.to(torch.bfloat16)).mean, wanted, atol=2**-7)


@pytest.mark.gpu
def test_a_round_on_cuda_is_that_on_cpu() -> None:
    agreed = protocol(6, 2, 1, 1000)
    updates = some_updates(6, 1000)
    on_cpu = simulate(agreed, updates, drop={"upload": {1}}, key=Key(SECRET))
    there = [update.cuda() for update in updates]
    on_cuda = simulate(agreed, there, drop={"upload": {1}}, key=Key(SECRET))
    assert on_cuda.integers.is_cuda
    assert torch.equal(on_cuda.integers.cpu(), on_cpu.integers)
    there[2][3] = float("nan")
    with pytest.raises(ArgumentError, match="NaN"):
        simulate(agreed, there)


def test_names_are_where_users_look_for_them() -> None:
    import pyfed.secagg as secagg

    assert set(secagg.__all__) <= set(dir(secagg))
    assert pyfed.secagg.simulate is simulate
    with pytest.raises(AttributeError, match="Nonsense"):
        secagg.Nonsense  # noqa: B018

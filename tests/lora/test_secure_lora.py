"""Federated LoRA through LightSecAgg: exactly the sum of what the clients encode, and no more."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from lora.fedsa_rounds import A_SIDE, equal_bits, is_any, mean_in_float64, models_of, play, state
from lora.peft_models import fleet, lora_config
from pyfed import MERSENNE31, Key
from pyfed.errors import ArgumentError, DtypeError, ProtocolError, ThresholdError
from pyfed.lora import ClientBank, FedSALoRA, SecureLora, aggregate
from pyfed.secagg import LightSecAgg, simulate

PATH = "base_model.model.q"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
KEY = Key(bytes(range(32)))


def adapter(seed: int, grid: int = 0) -> dict[str, torch.Tensor]:
    """A (2, 5) and B (3, 2) in [-1, 1]; with ``grid`` bits multiples of 2^-grid."""
    draw = torch.Generator().manual_seed(seed)
    a, b = (2 * torch.rand(shape, generator=draw) - 1 for shape in ((2, 5), (3, 2)))
    if grid:
        a, b = ((t * 2**grid).round() / 2**grid for t in (a, b))
    return {f"{PATH}.lora_A.weight": a, f"{PATH}.lora_B.weight": b}


def secure_of(rule: Any = "fedsa", clients: int = 5, **options: Any) -> SecureLora:
    like = options.pop("like", None) or adapter(0)
    given = {"privacy": 1, "dropouts": 1, "max_weight": 50, "config": CONFIG, **options}
    return SecureLora(rule, like, clients, **given)


WEIGHTS = [1, 50, 7, 0, 20]


@pytest.mark.parametrize("phase", ["keys", "share", "upload", "recover", None])
def test_the_sum_is_exactly_that_of_the_integers_whoever_drops(phase: str | None) -> None:
    secure = secure_of(dropouts=2)
    grid = secure.fixed.exponent
    adapters = [adapter(seed, grid) for seed in range(5)]
    drop = {phase: {1, 4}} if phase else {}
    outcome = simulate(secure.protocol, [secure.update(a, CONFIG) for a in adapters], WEIGHTS, drop)
    result = secure.result(outcome)
    inside = [0, 2, 3] if phase in ("keys", "share", "upload") else [0, 1, 2, 3, 4]
    total = sum(WEIGHTS[c] for c in inside)
    assert (result.included, result.weight) == (len(inside), total)
    values = [adapters[c][f"{PATH}.lora_A.weight"].flatten().tolist() for c in inside]
    for place, found in enumerate(outcome.integers.tolist()):
        steps = [int(Fraction(own[place]) * 2**grid) for own in values]
        assert found == sum(WEIGHTS[c] * step for c, step in zip(inside, steps, strict=True))
    wanted = (outcome.integers.double() / 2**grid).float() / total
    assert equal_bits(result.vector, wanted)


@pytest.mark.parametrize("rule", ["fedsa", "fedit", "ffa", "rolora"])
def test_the_mean_is_nearer_than_a_step_to_that_in_clear(rule: str) -> None:
    halves = {"fedsa": "A", "fedit": "AB", "ffa": "B"}
    adapters = [adapter(seed) for seed in range(5)]
    shared = halves.get(rule) or ("A" if "a" in FedSALoRA(rule).share(0) else "B")
    for own in adapters:  # what does not travel is frozen and equal under ffa and rolora
        for half in set("AB") - set(shared):
            if rule != "fedsa":
                own[f"{PATH}.lora_{half}.weight"] = torch.ones_like(
                    own[f"{PATH}.lora_{half}.weight"]
                )
    secure = secure_of(rule, like=adapters[0])
    updates = [secure.update(own, CONFIG) for own in adapters]
    result = secure.result(simulate(secure.protocol, updates, WEIGHTS))
    assert set(result.shared) == {f"{PATH}.lora_{half}.weight" for half in shared}
    for key, value in result.shared.items():
        wanted = mean_in_float64(adapters, WEIGHTS, key)
        assert float((value.double() - wanted).abs().max()) < secure.step * (1 + 1e-3)
    clear = play(FedSALoRA(rule), adapters, WEIGHTS, config=CONFIG)
    assert float((clear.vector - result.vector).abs().max()) < secure.step * (1 + 1e-3)


def test_the_sum_is_that_of_what_each_client_encodes() -> None:
    secure = secure_of()
    adapters = [adapter(seed) for seed in range(5)]
    updates = [secure.update(own, CONFIG) for own in adapters]
    outcome = simulate(secure.protocol, updates, WEIGHTS, key=KEY)
    total = torch.zeros(10, dtype=torch.int64)
    for index, (update, weight) in enumerate(zip(updates, WEIGHTS, strict=True)):
        rounding = KEY.derive("client", 0, index).derive("rounding")
        total += weight * secure.fixed.integers(secure.fixed.encode(update, rounding))
    assert torch.equal(outcome.integers, total)


@pytest.mark.parametrize("variant", ["lora", "rslora", "vera"])
def test_models_keep_their_own_b_when_the_mean_comes_from_a_secret_sum(variant: str) -> None:
    models = models_of(variant, 4)
    before = [state(model) for model in models]
    secure = SecureLora(FedSALoRA(heads="local"), models[0], 4, 1, 1, max_weight=9, clip=2.0)
    updates = [secure.update(model) for model in models]
    result = secure.result(simulate(secure.protocol, updates, [3, 9, 1, 2], {"upload": {2}}))
    for model, old in zip(models, before, strict=True):
        result.load_(model)
        for key, value in state(model).items():
            if is_any(key, A_SIDE):
                wanted = mean_in_float64([before[0], before[1], before[3]], [3, 9, 2], key)
                assert float((value.double() - wanted).abs().max()) < secure.step * (1 + 1e-3)
            else:
                assert equal_bits(value, old[key])


def test_shared_heads_are_in_the_sum() -> None:
    models = models_of("lora", 3)
    secure = SecureLora("fedsa", models[0], 3, 1, 0, clip=4.0)
    updates = [secure.update(model) for model in models]
    result = secure.result(simulate(secure.protocol, updates))
    key = "base_model.model.classifier.weight"
    wanted = mean_in_float64([state(model) for model in models], [1, 1, 1], key)
    assert float((result.shared[key].double() - wanted).abs().max()) < secure.step * (1 + 1e-3)


def test_as_many_bits_are_taken_as_the_sum_bears() -> None:
    for clients, most in itertools.product((3, 50, 4000), (1, 100, 10_000)):
        total = clients * most
        if total * 2**8 > 2**30 - 2**16:
            continue  # too coarse
        secure = secure_of(clients=clients, dropouts=0, max_weight=most)
        half = (secure.fixed.field.modulus - 1) // 2
        assert total * 2 ** (secure.fixed.bits - 1) <= half
        assert secure.fixed.bits == 24 or total * 2**secure.fixed.bits > half
    with pytest.raises(ArgumentError, match="a sum could wrap; use fewer"):
        secure_of(clients=4000, max_weight=2**30)


@pytest.mark.parametrize("clip", [1.0, 8.0, 0.3])
def test_a_step_that_leaves_less_than_eight_bits_of_the_clip_is_refused(clip: float) -> None:
    with pytest.raises(ArgumentError, match="it must be at most clip / 256") as caught:
        secure_of(clients=3000, dropouts=0, max_weight=10_000, clip=clip)
    says = re.search("lower max_weight to ([0-9]+) at most", str(caught.value))
    assert says is not None and "clients · max_weight is 3000 · 10000" in str(caught.value)
    most = int(says[1])
    secure = secure_of(clients=3000, dropouts=0, max_weight=most, clip=clip)
    assert secure.step <= clip / 256
    with pytest.raises(ArgumentError, match="at most clip / 256"):
        secure_of(clients=3000, dropouts=0, max_weight=most + 1, clip=clip)
    with pytest.raises(ArgumentError, match="bits is 8: give more, or None"):
        secure_of(bits=8, clip=clip)
    assert secure_of(bits=10, clip=clip).step <= clip / 256


def test_clients_of_a_bank_are_given_by_their_state_and_its_configuration() -> None:
    bank = ClientBank.from_peft(models_of("lora", 1)[0], clients=3)
    secure = SecureLora("fedsa", bank.state_dict(0), 3, 1, 0, clip=4.0, config=bank.config)
    update = secure.update(bank.state_dict(2), bank.config)
    assert torch.equal(update, secure.update(bank.state_dict(0), bank.config))
    for call in (
        lambda: SecureLora("fedsa", bank, 3, 1, 0),  # type: ignore[arg-type]
        lambda: secure.update(bank),  # type: ignore[arg-type]
    ):
        says = (
            r"SecureLora.*is ClientBank; it must be a PEFT model, a state dict or a path .*bank\."
        )
        with pytest.raises(DtypeError, match=says):
            call()


def test_values_beyond_the_clip_are_refused_by_name_and_not_cut_off() -> None:
    secure = secure_of()
    own = adapter(1)
    for value in (1.01, -7.0, torch.nan, torch.inf):
        own[f"{PATH}.lora_A.weight"][1, 3] = value
        with pytest.raises(ArgumentError, match=rf"{PATH}.lora_A.weight holds .* at \(1, 3\)"):
            secure.update(own, CONFIG)
    own[f"{PATH}.lora_A.weight"][1, 3] = -1.0
    assert secure.update(own, CONFIG)[8] == -1.0


REASONS = {
    "flora": "factors of every client in clear: it stacks",
    "fedex": "factors of every client in clear: its residual",
    "flexlora": "factors of every client in clear: it factorises",
    "hetlora": "factors of every client in clear: its weights",
    "fedsvd": "takes the mean of B and then factorises it",
}


@pytest.mark.parametrize("rule", REASONS)
def test_rules_that_are_no_sums_are_refused_with_the_reason(rule: str) -> None:
    with pytest.raises(ArgumentError, match=REASONS[rule]):
        secure_of(rule)


def test_sessions_are_bound_to_the_plan() -> None:
    """Two clients of one length but other scalings meet: the second is refused at the door."""
    config = CONFIG | {"lora_alpha": 4}
    mine, other = secure_of(), secure_of(config=config)
    assert mine.plan.values == other.plan.values
    server = mine.protocol.server(0)
    (hello,) = other.protocol.client(0, 0).start(
        other.update(adapter(0), CONFIG | {"lora_alpha": 4})
    )
    with pytest.raises(ProtocolError, match="of another session, or of other parameters"):
        server.handle(hello, 0)
    (hello,) = mine.protocol.client(0, 0).start(mine.update(adapter(0), CONFIG))
    server.handle(hello, 0)


def test_outcomes_of_other_sessions_are_refused() -> None:
    config = CONFIG | {"lora_alpha": 4}
    mine, other = secure_of(), secure_of(config=config)
    updates = [other.update(adapter(seed), config) for seed in range(5)]
    outcome = simulate(other.protocol, updates)
    with pytest.raises(ArgumentError, match="of another session, plan or fixed point"):
        mine.result(outcome)
    assert other.result(outcome).included == 5


def test_too_many_lost_clients_and_weights_of_zero_are_told() -> None:
    secure = secure_of()
    updates = [secure.update(adapter(seed), CONFIG) for seed in range(5)]
    with pytest.raises(ThresholdError):
        simulate(secure.protocol, updates, WEIGHTS, {"upload": {0, 1}})
    with pytest.raises(ArgumentError, match="all 5 clients in the sum have weight 0"):
        secure.result(simulate(secure.protocol, updates, [0] * 5))


def test_any_protocol_of_the_same_interface_will_do() -> None:
    seen = {}

    def mine(*numbers: int, **options: Any) -> LightSecAgg:
        seen.update(options)
        return LightSecAgg(*numbers, **options)

    secure = secure_of(protocol=mine, detect=1, field=MERSENNE31)
    assert seen == {"length": 10, "fixed": secure.fixed, "detect": 1}
    assert secure.protocol.parameters.detect == 1
    updates = [secure.update(adapter(seed), CONFIG) for seed in range(5)]
    assert secure.result(simulate(secure.protocol, updates)).included == 5


FEDIT = FedSALoRA("fedit").plan(adapter(0), CONFIG)
CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: secure_of(FedSALoRA(wire="bfloat16")), ArgumentError, "wire is 'bfloat16'"),
    (lambda: secure_of(clients=2), ArgumentError, "clients is 2"),
    (lambda: secure_of(max_weight=0), ArgumentError, "max_weight is 0"),
    (lambda: secure_of(clip=-1.0), ArgumentError, "clip"),
    (lambda: secure_of(bits=40), ArgumentError, "bits is 40"),
    (lambda: secure_of(bits=31, max_weight=1), ArgumentError, "bits|wrap"),
    (lambda: secure_of(dropouts=3), ArgumentError, "it must be at least 2"),
    (
        lambda: secure_of(like=FedSALoRA("fedit").plan(adapter(0), CONFIG)),
        ArgumentError,
        "other se",
    ),
    (lambda: secure_of().result(None), DtypeError, "outcome is NoneType"),
    (lambda: secure_of().update(adapter(0)), ArgumentError, "SecureLora.update: config of the"),
    (
        lambda: secure_of().update(fleet("bert", 1, lora_config())[0]),
        ArgumentError,
        "not that of the plan: lacks",
    ),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_wrong_calls_are_named(number: int) -> None:
    call, error, match = CALLS[number]
    with pytest.raises(error, match=match):
        call()


def test_fedsvd_is_a_secret_mean_of_b_and_a_factorisation_of_it() -> None:
    adapters = [adapter(seed) for seed in range(5)]
    a, b = (f"{PATH}.lora_{half}.weight" for half in "AB")
    for own in adapters:
        own[a] = adapters[0][a].clone()  # as every client has it after a round of fedsvd
    secure = secure_of("ffa", like=adapters[0])
    updates = [secure.update(own, CONFIG) for own in adapters]
    mean = secure.result(simulate(secure.protocol, updates, WEIGHTS)).shared
    before = {a: adapters[0][a]}
    found = aggregate([mean], None, "fedsvd", CONFIG, previous=before).shared
    wanted = aggregate(adapters, WEIGHTS, "fedsvd", CONFIG, previous=before).shared
    product = wanted[b].double() @ wanted[a].double()
    gap = (found[b].double() @ found[a].double() - product).abs().max()
    assert float(gap) < 10 * secure.step
    assert torch.allclose(found[a] @ found[a].T, torch.eye(2), atol=1e-5)

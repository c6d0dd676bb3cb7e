"""What a client or a server of federated LoRA will not take, and that nothing changes then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lora.fedsa_rounds import equal_bits, models_of, play, refused, state, with_nan
from lora.peft_models import adapted, fleet, lora_config, vera_config
from pyfed.errors import ArgumentError, ProtocolError, ThresholdError
from pyfed.lora import FedSALoRA, LoraMessage

A = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A"


def changed(**fields: Any) -> Callable[[LoraMessage], Any]:
    return lambda message: dataclasses.replace(message, **fields)


FORGED: dict[str, tuple[Callable[[LoraMessage], Any], str]] = {
    "bytes": (lambda m: m.to_bytes(), "a message is bytes"),
    "another version": (changed(version=2), "version must be 1"),
    "another session": (changed(session=bytes(32)), "is of another session"),
    "other marks": (changed(marks=bytes(28)), "the adapters differ in settings"),
    "the next round": (changed(round=1), "is of round 1; this is round 0"),
    "no round": (changed(round=True), "round must be an integer"),
    "a short payload": (lambda m: changed(payload=m.payload[:-1])(m), "payload must be"),
    "NaN": (with_nan, r"classifier.weight holds nan at \(2, 15\)"),
    "a weight of a half": (changed(weight=0.5), "weight must be"),
}


@pytest.mark.parametrize("what", [*FORGED, "another sender", "a mean", "another recipient"])
def test_a_server_refuses_and_keeps_nothing_of_it(what: str) -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    updates = [rule.client(i, model).start(i + 1)[0] for i, model in enumerate(models)]
    if what == "a mean":
        helper = rule.server(models[0], 1)
        helper.handle(updates[0], 0)
        bad, match = helper.close_phase()[0], "LoraShared is not for this side"
    elif what == "another sender":
        bad, match = changed(sender=1)(updates[0]), "names sender 1, but came from 0"
    elif what == "another recipient":
        bad, match = changed(recipient=0)(updates[0]), "recipient must be"
    else:
        change, match = FORGED[what]
        bad = change(updates[0])
    server = rule.server(models[0], 2)
    with pytest.raises(ProtocolError, match=match) as caught:
        server.handle(bad, 0)
    assert caught.value.phase == "update"
    assert server.waiting == {0, 1}
    for index in (1, 0):  # the genuine updates of the same clients still count, once
        server.handle(updates[index], index)
    server.close_phase()
    wanted = play(rule, models_of("lora", 2), [1, 2])
    assert equal_bits(server.result.vector, wanted.vector)


def test_nan_in_an_update_is_refused_naming_client_and_key() -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    (update,) = rule.client(1, models[1]).start()
    server = rule.server(models[0], 2)
    error = refused(server.handle, with_nan(update), 1)
    assert (error.sender, error.phase) == (1, "update")
    assert "LoraUpdate of client 1: base_model.model.classifier.weight holds nan" in str(error)


def test_a_client_does_not_send_nan_and_may_start_again() -> None:
    models = models_of("lora", 1)
    client = FedSALoRA().client(5, models[0])
    parameter = dict(models[0].named_parameters())[f"{A}.default.weight"]
    with torch.no_grad():
        parameter[2, 3] = torch.nan
    with pytest.raises(ArgumentError, match=rf"client 5: {A}.weight holds nan at \(2, 3\)"):
        client.start()
    with torch.no_grad():
        parameter[2, 3] = 1
    assert len(client.start()) == 1


def test_values_too_large_for_a_narrow_wire_are_told_before_they_become_infinite() -> None:
    models = models_of("lora", 1)
    with torch.no_grad():
        dict(models[0].named_parameters())[f"{A}.default.weight"][0, 1] = 1e6
    with pytest.raises(ArgumentError, match=r"holds inf at \(0, 1\).*to travel as float16"):
        FedSALoRA(wire="float16").client(0, models[0]).start()
    assert FedSALoRA(wire="bfloat16").client(0, models[0]).start()


def test_a_server_refuses_repeats_strangers_and_what_comes_late() -> None:
    models = models_of("lora", 3)
    rule = FedSALoRA()
    updates = [rule.client(i, model).start()[0] for i, model in enumerate(models)]
    server = rule.server(models[0], 2)
    assert "there is no result yet" in str(refused(lambda: server.result))
    server.handle(updates[0], 0)
    error = refused(server.handle, updates[0], 0)
    assert "client 0 sent its update before" in str(error) and error.sender == 0
    assert "client 2 is none of the 2" in str(refused(server.handle, updates[2], 2))
    server.close_phase()
    assert server.result.included == 1
    assert "the round is done" in str(refused(server.handle, updates[1], 1))
    assert "no phase to close" in str(refused(server.close_phase))
    server.close()
    assert "the round is closed" in str(refused(server.handle, updates[1], 1))
    replayed = rule.server(models[0], 2, round=1)
    assert "is of round 0; this is round 1" in str(refused(replayed.handle, updates[0], 0))


def test_nobody_or_nobody_with_samples_is_a_threshold_error_and_the_phase_stays_open() -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    server = rule.server(models[0], 2)
    with pytest.raises(ThresholdError, match="none came") as caught:
        server.close_phase()
    assert (caught.value.missing, caught.value.needed) == ((0, 1), 1)
    server.handle(rule.client(0, models[0]).start(weight=0)[0], 0)
    with pytest.raises(ThresholdError, match="none of those that came has a positive") as caught:
        server.close_phase()
    assert caught.value.missing == (1,)
    server.handle(rule.client(1, models[1]).start(weight=4)[0], 1)
    assert len(server.close_phase()) == 2
    assert server.result.weight == 4


@pytest.mark.parametrize("what", [*FORGED, "another sender", "an update", "another recipient"])
def test_a_client_refuses_and_its_adapter_stays_as_it_is(what: str) -> None:
    models = models_of("lora", 2)
    rule = FedSALoRA()
    server = rule.server(models[0], 2)
    clients = [rule.client(i, model) for i, model in enumerate(models)]
    updates = [client.start()[0] for client in clients]
    for index, update in enumerate(updates):
        server.handle(update, index)
    means = server.close_phase()
    source = -1
    if what == "an update":
        bad, match = updates[1], "LoraUpdate is not for this side"
    elif what == "another sender":
        bad, match, source = means[0], "names sender -1, but came from 1", 1
    elif what == "another recipient":
        bad, match = means[1], "LoraShared is for client 1"
    else:
        change, match = FORGED[what]
        bad = change(means[0])
    before = state(models[0])
    with pytest.raises(ProtocolError, match=match) as caught:
        clients[0].handle(bad, source)
    assert caught.value.phase == "share"
    assert all(equal_bits(value, before[key]) for key, value in state(models[0]).items())
    clients[0].handle(means[0], -1)  # the genuine mean is still taken
    assert torch.equal(clients[0].result.vector, server.result.vector)
    assert "the round is done" in str(refused(clients[0].handle, means[0], -1))
    assert "the round is over" in str(refused(clients[0].start))


def test_a_client_starts_once_and_not_after_it_was_closed() -> None:
    (model,) = models_of("lora", 1)
    client = FedSALoRA().client(0, model)
    client.start()
    assert "start was called before" in str(refused(client.start))
    client.close()
    error = refused(client.handle, None, -1)
    assert "a message is NoneType" in str(error)
    assert "the round is over" in str(refused(client.start))
    assert "the round is closed" in str(refused(client.tensors))


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "rank": (lambda: lora_config(r=2), "ranks or shapes and scaling"),
    "higher rank": (lambda: lora_config(r=8), "ranks or shapes and scaling"),
    "targets": (lambda: lora_config(target_modules=["query"]), "target modules or heads"),
    "scaling": (lambda: lora_config(lora_alpha=16), "scaling"),
    "rsLoRA": (lambda: lora_config(use_rslora=True), "scaling"),
    "VeRA": (vera_config, "target modules or heads"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_client_with_another_adapter_is_refused_with_the_reason(what: str) -> None:
    make, reason = OTHERS[what]
    (mine,), (other,) = models_of("lora", 1), fleet("bert", 1, make())
    rule = FedSALoRA()
    server = rule.server(mine, 2)
    data = rule.client(1, other).start()[0].to_bytes()
    with pytest.raises(ProtocolError, match=reason):
        LoraMessage.from_bytes(data, server.plan)


def test_dtypes_projections_and_wires_that_differ_are_refused_with_the_reason() -> None:
    def reason(left: Any, right: Any, rules: tuple[FedSALoRA, FedSALoRA] | None = None) -> str:
        one, two = rules or (FedSALoRA(), FedSALoRA())
        data = two.client(0, right).start()[0].to_bytes()
        return str(refused(LoraMessage.from_bytes, data, one.server(left, 1).plan))

    (mine,) = models_of("lora", 1)
    assert "dtypes" in reason(mine, fleet("bert", 1, lora_config(), dtype=torch.bfloat16)[0])
    keys = [fleet("bert", 1, vera_config(projection_prng_key=key))[0] for key in (0, 1)]
    assert "VeRA projection (projection_prng_key)" in reason(*keys)
    for other in (FedSALoRA(wire="bfloat16"), FedSALoRA("fedit"), FedSALoRA("ffa")):
        assert "settings (rule, heads" in reason(mine, mine, (FedSALoRA(), other))


@pytest.mark.parametrize("rule", ["ffa", "rolora"])
def test_a_frozen_half_that_differs_is_refused_with_the_reason(rule: str) -> None:
    models = models_of("lora", 2)  # of other A and other B
    settings = FedSALoRA(rule)
    server = settings.server(models[0], 2)
    (update,) = settings.client(1, models[1]).start()
    error = refused(server.handle, update, 1)
    assert "values of the half that this round leaves frozen" in str(error)


def test_a_frozen_half_that_was_trained_is_noticed_before_anything_is_sent() -> None:
    (model,) = models_of("lora", 1)
    client = FedSALoRA("ffa").client(3, model)
    with torch.no_grad():
        dict(model.named_parameters())[f"{A}.default.weight"].add_(1)
    with pytest.raises(ArgumentError, match=r"client 3: .*changed since.*half that this round"):
        client.start()
    fedsa = FedSALoRA().client(3, model)
    with torch.no_grad():
        dict(model.named_parameters())[f"{A}.default.weight"].add_(1)
    assert fedsa.start()


def test_the_scaling_that_counts_is_that_of_the_live_layers() -> None:
    """PEFT lets a layer be scaled by hand; its configuration does not know."""
    mine, other = models_of("lora", 2)
    server = FedSALoRA().server(mine, 2)
    for layer in adapted(other).values():
        layer.set_scale("default", 3)
    (update,) = FedSALoRA().client(1, other).start()
    error = refused(server.handle, update, 1)
    assert "the adapters differ in scaling" in str(error)

"""Server optimisers follow the published updates, and a refused step changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from lora.peft_models import fleet, lora_config, states
from pyfed.errors import ArgumentError, DtypeError
from pyfed.lora import FedAdam, FedAvgM, FedYogi, aggregate

WEIGHTS = [1, 2, 5]
SERVERS: dict[str, Any] = {
    "FedAvgM": lambda: FedAvgM(lr=0.7, momentum=0.6),
    "FedAdam": lambda: FedAdam(lr=0.05, beta1=0.8, beta2=0.95, tau=0.01),
    "FedYogi": lambda: FedYogi(lr=0.05, beta1=0.8, beta2=0.95, tau=0.01),
}


def oracle(name: str, x: np.ndarray, means: list[np.ndarray]) -> np.ndarray:
    """The algorithms as papers print them, in numpy's float64."""
    m, v = np.zeros_like(x), np.full_like(x, 0.01**2)
    for mean in means:
        delta = mean - x
        if name == "FedAvgM":
            m = 0.6 * m + delta
            x = x + 0.7 * m
            continue
        m = 0.8 * m + (1 - 0.8) * delta
        if name == "FedAdam":
            v = 0.95 * v + (1 - 0.95) * delta**2
        else:
            v = v - (1 - 0.95) * delta**2 * np.sign(v - delta**2)
        x = x + 0.05 * m / (np.sqrt(v) + 0.01)
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SERVERS)
def test_five_rounds_are_those_of_the_paper(name: str, dtype: torch.dtype) -> None:
    server, start = SERVERS[name](), torch.randn(4, 3, dtype=dtype)
    means = [torch.randn(4, 3, dtype=dtype) for _ in range(5)]
    x = {"w": start}
    for mean in means:
        x = server.step(x, {"w": mean})
    wanted = oracle(name, start.double().numpy(), [mean.double().numpy() for mean in means])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert x["w"].dtype == dtype
    assert np.allclose(x["w"].double().numpy(), wanted, rtol=tolerance, atol=tolerance)


def test_without_momentum_the_server_averages() -> None:
    given = states(fleet())
    plain = aggregate(given, WEIGHTS).shared
    out = aggregate(given, WEIGHTS, server=FedAvgM(momentum=0), previous=states(fleet())[0])
    for key, value in plain.items():
        assert torch.allclose(out.shared[key], value, atol=1e-6)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("rule", ["fedit", "fedsa"])
def test_a_rule_of_means_is_followed_by_the_server(rule: str, name: str) -> None:
    given = states(fleet())
    previous = {key: value + 0.1 for key, value in given[0].items()}
    mean = aggregate(given, WEIGHTS, rule).shared
    found = aggregate(given, WEIGHTS, rule, server=SERVERS[name](), previous=previous).shared
    wanted = SERVERS[name]().step(previous, mean)
    assert found.keys() == mean.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in mean)


def test_alternating_halves_keep_their_own_state() -> None:
    server, one = FedAvgM(momentum=0.5), torch.ones(2)
    for number in range(4):
        key = "a" if number % 2 == 0 else "b"
        after = server.step({key: 0 * one}, {key: one})
    assert torch.equal(after["b"], 1.5 * one)
    assert set(server.state_dict()["state"]) == {"a", "b"}


@pytest.mark.parametrize("name", SERVERS)
def test_a_loaded_state_goes_on_as_the_saved_one(name: str) -> None:
    first = SERVERS[name]()
    x = {"w": torch.randn(3)}
    x = first.step(x, {"w": torch.randn(3)})
    saved = first.state_dict()
    second = SERVERS[name]()
    second.load_state_dict(saved)
    mean = {"w": torch.randn(3)}
    assert torch.equal(first.step(x, mean)["w"], second.step(x, mean)["w"])
    third = SERVERS[name]()
    third.load_state_dict(saved)  # which the steps of the others have not changed
    assert torch.equal(third.state["w"]["m"], saved["state"]["w"]["m"])


def test_a_state_of_another_kind_is_refused() -> None:
    server = FedAdam()
    for state, says in (
        (FedYogi().state_dict(), "another kind"),
        (FedAdam(lr=0.5).state_dict(), "settings"),
        ({**server.state_dict(), "state": {"w": {"m": torch.ones(1)}}}, "must hold m, v"),
        ([], "another kind"),
    ):
        with pytest.raises(ArgumentError, match=says):
            server.load_state_dict(state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("previous", "says"),
    [
        ({}, "has no 'v'"),
        ({"v": torch.ones(3)}, "'v'\\] is torch.float32 \\(3,\\)"),
        ({"v": torch.ones(2).double()}, "'v'\\] is torch.float64"),
        ({"v": torch.tensor([1.0, torch.nan])}, "NaN"),
        ({"v": torch.tensor([1.0, -3e38])}, "not finite after the step"),
    ],
)
def test_a_refused_step_changes_no_state(previous: dict[str, torch.Tensor], says: str) -> None:
    server = FedAdam()
    server.step({"u": torch.zeros(2)}, {"u": torch.ones(2)})
    before = copy.deepcopy(server.state_dict())
    mean = {"u": torch.ones(2), "v": torch.full((2,), 3e38)}
    with pytest.raises(ArgumentError, match=says):
        server.step({"u": torch.zeros(2)} | previous, mean)
    after = server.state_dict()["state"]
    assert after.keys() == before["state"].keys()
    assert all(torch.equal(after["u"][n], before["state"]["u"][n]) for n in ("m", "v"))


@pytest.mark.parametrize("rule", ["flora", "fedex", "flexlora", "hetlora", "fedsvd"])
def test_rules_of_products_take_no_server(rule: str) -> None:
    given = states(fleet())
    with pytest.raises(ArgumentError, match="take over more than means"):
        aggregate(given, rule=rule, configs=lora_config(), server=FedAvgM(), previous=given[0])


def test_what_is_no_server_is_refused() -> None:
    given = states(fleet())
    with pytest.raises(ArgumentError, match="previous is None"):
        aggregate(given, server=FedAdam())
    with pytest.raises(DtypeError, match="server is SGD"):
        aggregate(given, server=torch.optim.SGD([torch.zeros(1)]), previous={})  # type: ignore[arg-type]
    for make, says in (
        (lambda: FedAvgM(lr=0), "lr is 0"),
        (lambda: FedAvgM(momentum=1), "momentum is 1"),
        (lambda: FedAdam(beta2=-0.1), "beta2 is -0.1"),
        (lambda: FedYogi(tau=float("nan")), "FedYogi: tau is nan"),
    ):
        with pytest.raises(ArgumentError, match=says):
            make()
    with pytest.raises(DtypeError, match="lr is str"):
        FedAdam(lr="1")  # type: ignore[arg-type]

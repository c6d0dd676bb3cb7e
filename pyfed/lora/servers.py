"""Server optimisers: the mean of the clients taken as a gradient, with momentum or adaptive steps.

Reddi et al., Adaptive Federated Optimization (arXiv 2003.00295): with Δ = mean − x for the shared
tensors x before the round, FedAvgM keeps m ← β m + Δ and takes x ← x + η m. FedAdam and FedYogi
keep m ← β₁ m + (1 − β₁) Δ and v, and take x ← x + η m / (√v + τ); v begins at τ² and nothing is
corrected for bias, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pyfed.errors import ArgumentError, DtypeError

State = dict[str, torch.Tensor]


class ServerOptimizer:
    """What the server optimisers have in common: one state for each shared tensor.

    Tensors of 16 bits have their state in float32. A key that a round does not share keeps its
    state, so rules that alternate between halves are served too.
    """

    names: tuple[str, ...] = ("m",)

    def __init__(self, **settings: float) -> None:
        self.settings = settings
        self.state: dict[str, State] = {}

    def step(self, previous: Mapping[str, torch.Tensor], mean: Mapping[str, torch.Tensor]) -> State:
        """The shared tensors after the round.

        Args:
            previous: what clients started the round from; every key of ``mean`` is in it.
            mean: the weighted means of what they trained.

        Returns:
            State dict with the keys and dtypes of ``mean``.

        Raises:
            ArgumentError: ``previous`` lacks a key or has another shape or dtype, or a value would
                not be finite; the state is unchanged then.
        """
        who = type(self).__name__
        states: dict[str, State] = {}
        after: State = {}
        for key, target in mean.items():
            start = _start(who, previous, key, target)
            if not target.is_floating_point():
                after[key] = target
                continue
            wide = torch.float64 if target.dtype == torch.float64 else torch.float32
            delta = target.to(wide) - start.to(wide)
            kept = self.state.get(key) or self._fresh(delta)
            if kept["m"].shape != delta.shape:
                raise ArgumentError(
                    f"{who}: {key!r} has shape {tuple(delta.shape)}; the state is of "
                    f"{tuple(kept['m'].shape)}"
                )
            kept = {name: value.to(delta) for name, value in kept.items()}
            states[key], change = self._update(kept, delta)
            after[key] = (start.to(wide) + change).to(target.dtype)
            if not all(bool(t.isfinite().all()) for t in (*states[key].values(), after[key])):
                raise ArgumentError(f"{who}: {key!r} is not finite after the step; lower lr")
        self.state.update(states)
        return after

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later run needs to go on, copied."""
        copied = {key: {n: t.clone() for n, t in own.items()} for key, own in self.state.items()}
        return {"kind": type(self).__name__, "settings": dict(self.settings), "state": copied}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave; raises ArgumentError where it is not of this kind."""
        who = type(self).__name__
        if not isinstance(state, Mapping) or state.get("kind") != who:
            raise ArgumentError(f"{who}: state is of another kind; it must be of {who}")
        if state.get("settings") != self.settings:
            raise ArgumentError(
                f"{who}: state has settings {state.get('settings')}; they must be {self.settings}"
            )
        loaded: dict[str, State] = {}
        for key, own in dict(state.get("state", {})).items():
            if not isinstance(own, Mapping) or set(own) != set(self.names):
                raise ArgumentError(f"{who}: state of {key!r} must hold {', '.join(self.names)}")
            loaded[key] = {name: tensor.clone() for name, tensor in own.items()}
        self.state = loaded

    def _fresh(self, delta: torch.Tensor) -> State:
        return {"m": torch.zeros_like(delta)}

    def _update(self, kept: State, delta: torch.Tensor) -> tuple[State, torch.Tensor]:
        """The new state, and what is added to x."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{type(self).__name__}({shown})"


def _start(
    who: str, previous: Mapping[str, torch.Tensor], key: str, target: torch.Tensor
) -> torch.Tensor:
    start = previous.get(key)
    if start is None:
        raise ArgumentError(f"{who}: previous has no {key!r}; it must have all that is shared")
    if start.shape != target.shape or start.dtype != target.dtype:
        raise ArgumentError(
            f"{who}: previous[{key!r}] is {start.dtype} {tuple(start.shape)}; it must be "
            f"{target.dtype} {tuple(target.shape)}"
        )
    if not bool(start.isfinite().all()):
        raise ArgumentError(f"{who}: previous[{key!r}] holds NaN or infinity; it must be finite")
    return start.detach().to(target.device)


def _number(who: str, name: str, value: float, good: Callable[[float], bool], wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DtypeError(f"{who}: {name} is {type(value).__name__}; it must be a number")
    if not math.isfinite(value) or not good(value):
        raise ArgumentError(f"{who}: {name} is {value}; it must be {wanted}")
    return float(value)


def _positive(who: str, name: str, value: float) -> float:
    return _number(who, name, value, lambda x: x > 0, "above 0")


def _fraction(who: str, name: str, value: float) -> float:
    return _number(who, name, value, lambda x: 0 <= x < 1, "in [0, 1)")


class FedAvgM(ServerOptimizer):
    """Momentum on the server; with ``momentum=0`` and ``lr=1`` it is plain averaging.

    Args:
        lr: η, above 0.
        momentum: β in [0, 1).

    Raises:
        DtypeError, ArgumentError: a number is of a wrong type or out of range.

    Example:
        >>> import torch
        >>> from pyfed.lora import FedAvgM
        >>> server, x = FedAvgM(momentum=0.5), {"w": torch.zeros(1)}
        >>> for _ in range(2):
        ...     x = server.step(x, {"w": x["w"] + 1})
        >>> x["w"]
        tensor([2.5000])

    Source: Hsu et al. (arXiv 1909.06335); as in Reddi et al. (arXiv 2003.00295).
    """

    def __init__(self, lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(
            lr=_positive("FedAvgM", "lr", lr), momentum=_fraction("FedAvgM", "momentum", momentum)
        )

    def _update(self, kept: State, delta: torch.Tensor) -> tuple[State, torch.Tensor]:
        m = kept["m"] * self.settings["momentum"] + delta
        return {"m": m}, m * self.settings["lr"]


class FedAdam(ServerOptimizer):
    """Adaptive steps on the server: v ← β₂ v + (1 − β₂) Δ², where v starts at τ².

    Args:
        lr: η, above 0.
        beta1: β₁ in [0, 1).
        beta2: β₂ in [0, 1).
        tau: τ, above 0: how little a coordinate must move to be speeded up.

    Raises:
        DtypeError, ArgumentError: a number is of a wrong type or out of range.

    Example:
        >>> import torch
        >>> from pyfed.lora import FedAdam
        >>> FedAdam(lr=0.1).step({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        {'w': tensor([0.0990])}

    Source: Reddi et al. (arXiv 2003.00295), algorithm 2.
    """

    names = ("m", "v")

    def __init__(
        self, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        who = type(self).__name__
        super().__init__(
            lr=_positive(who, "lr", lr),
            beta1=_fraction(who, "beta1", beta1),
            beta2=_fraction(who, "beta2", beta2),
            tau=_positive(who, "tau", tau),
        )

    def _fresh(self, delta: torch.Tensor) -> State:
        return {
            "m": torch.zeros_like(delta),
            "v": torch.full_like(delta, self.settings["tau"] ** 2),
        }

    def _update(self, kept: State, delta: torch.Tensor) -> tuple[State, torch.Tensor]:
        beta1 = self.settings["beta1"]
        m = beta1 * kept["m"] + (1 - beta1) * delta
        v = self._second(kept["v"], delta * delta)
        return {"m": m, "v": v}, self.settings["lr"] * m / (v.sqrt() + self.settings["tau"])

    def _second(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        beta2 = self.settings["beta2"]
        return beta2 * v + (1 - beta2) * square


class FedYogi(FedAdam):
    """As :class:`FedAdam`, with v ← v − (1 − β₂) Δ² sign(v − Δ²), which shrinks v slowly.

    v starts at τ² too.

    Example:
        >>> import torch
        >>> from pyfed.lora import FedYogi
        >>> FedYogi(lr=0.1).step({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        {'w': tensor([0.0990])}

    Source: Reddi et al. (arXiv 2003.00295), algorithm 2.
    """

    def _second(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        return v - (1 - self.settings["beta2"]) * square * torch.sign(v - square)

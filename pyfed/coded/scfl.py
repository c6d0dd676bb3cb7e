"""Stochastic coded federated learning: gradients on coded data stand in for clients that are late.

Linear regression, also on random features: F(W) = ½‖XW − Y‖² + ½λ‖W‖² over all clients' records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from pyfed.checks import expect_int, expect_tensor
from pyfed.coded.dataset import CodedDataset
from pyfed.coded.plain import plain
from pyfed.coded.records import expect_not_negative, expect_number, expect_positive
from pyfed.errors import ArgumentError, DtypeError

if TYPE_CHECKING:
    from pyfed.coded.scfl_client import SCFLClient
    from pyfed.coded.scfl_server import SCFLServer

Rule = Literal["complement", "convex", "adaptive"]
RULES: tuple[Rule, ...] = ("complement", "convex", "adaptive")


@dataclass(frozen=True, eq=False)
class SCFL:
    """The settings that clients and server have in common.

    Let g_i be the gradients of the clients that arrived, A, and g_s the corrected gradient on coded
    data, g_s = X̃_SᵀX̃_S W/b − X̃_SᵀỸ_S/b − σ²W. Its last part *makes up* for the noise, since
    E[X̃ᵀX̃]/c = XᵀX + σ²I. Both rules then give Σ g_i over all clients, expected over arrivals, G
    and noise:

    - "complement": Σ_A g_i + g_s, where records were coded with weights √(1 − p_i);
    - "convex": α·Σ_A g_i/p_i + (1 − α)·g_s, where they have weights of 1;
    - "adaptive": "convex" with α* = V_s/(V_s + V_c), of running estimates of both variances. They
      are those of earlier rounds: an α that depended on who arrives would bias the sum.

    Both parts must be of the same clients, or those in one of them alone count for less. A server
    refuses a coded sum of fewer sets than ``arrival`` has clients, and, but for "complement", of
    more.

    With ``local_steps`` > 1 (periodic averaging) a client returns the sum of the gradients along
    its own steps, and the server does the same on the coded data. That is unbiased to first order
    in the step size only: the error of the coded Hessian H̃ does not average out of H̃², so a bias
    of order lr²/c stays. The ridge acts once in a round, as τλW.

    Args:
        rule: how the two parts are put together.
        arrival: p_i in (0, 1] of every client, as a list, or as a dict for some clients. One that
            never arrives has no place in it: under "complement" its records are in the code with
            ``arrival=0``; the other rules cannot make up for it, and a server refuses its set
            (but for "convex" with α = 0). One whose coded set was lost must encode again, under a
            fresh key or stream, or be left out here, which leaves its records out.
        lr: the step on the mean gradient: W ← W − (lr/m)·(g + λW), for m records in all.
        ridge: λ, which acts between rounds; "least": as little as the guard asks for.
        alpha: α of "convex", in [0, 1]; of "adaptive" that of the first round.
        batch: b, coded rows in a step, drawn anew each time; None: all.
        client_batch: records in a client's step, whose gradient is scaled up; None: all.
        local_steps: τ, steps between two rounds.
        radius: W is projected onto ‖W‖_F ≤ radius; None: it is not.
        decay: of the running estimates of "adaptive", in [0, 1).
        guard: whether a server refuses settings under which the coded part alone makes W diverge;
            what clients add to its Hessian it cannot know, and where W grows by that, a step
            raises an error: take a smaller ``lr``.
        seed: of the batches, which are no secret.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: a number is out of range, such as an arrival probability outside (0, 1].

    Example:
        >>> import torch, pyfed
        >>> from pyfed.coded import SCFL, CodedDataset
        >>> x = torch.randn(90, 2, generator=torch.Generator().manual_seed(1))
        >>> y = x @ torch.tensor([1.0, -1.0])
        >>> scfl = SCFL(rule="complement", arrival=[0.5, 0.5, 0.1], lr=0.5)
        >>> key = pyfed.Key(bytes(range(32)))  # pyfed.Key.generate(), in earnest
        >>> parts = [slice(0, 30), slice(30, 60), slice(60, 90)]
        >>> clients = [scfl.client(i, x[part], y[part]) for i, part in enumerate(parts)]
        >>> coded = [one.encode(50, key.derive("client", i)) for i, one in enumerate(clients)]
        >>> server = scfl.server(CodedDataset.total(coded))
        >>> for _ in range(60):  # client 2, as good as never there, is made up for
        ...     _ = server.step({i: clients[i].update(server.weight) for i in (0, 1)})
        >>> server.weight.flatten().round(decimals=1)
        tensor([ 1., -1.])
    """

    rule: Rule = "complement"
    arrival: Sequence[float] | Mapping[int, float] = ()
    lr: float = 1.0
    ridge: float | Literal["least"] = 0.0
    alpha: float = 0.5
    batch: int | None = None
    client_batch: int | None = None
    local_steps: int = 1
    radius: float | None = None
    decay: float = 0.9
    guard: bool = True
    seed: int = 0
    probabilities: dict[int, float] = field(init=False, repr=False)
    """Client → p_i."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ArgumentError(f"SCFL: rule is {self.rule!r}; it must be one of {RULES}")
        object.__setattr__(self, "probabilities", _probabilities(self.arrival))
        expect_positive("SCFL", "lr", self.lr)
        if self.ridge != "least":
            expect_not_negative("SCFL", "ridge", self.ridge)
        if not 0 <= expect_not_negative("SCFL", "alpha", self.alpha) <= 1:
            raise ArgumentError(f"SCFL: alpha is {self.alpha}; it must be in [0, 1]")
        if not 0 <= expect_not_negative("SCFL", "decay", self.decay) < 1:
            raise ArgumentError(f"SCFL: decay is {self.decay}; it must be in [0, 1)")
        for name in ("batch", "client_batch"):
            if getattr(self, name) is not None:
                expect_int("SCFL", name, getattr(self, name), 1, 2**31)
        expect_int("SCFL", "local_steps", self.local_steps, 1, 2**31)
        expect_int("SCFL", "seed", self.seed, 0, 2**63)
        if self.radius is not None:
            expect_positive("SCFL", "radius", self.radius)

    def aggregate(
        self,
        gradients: Mapping[int, torch.Tensor],
        coded_gradient: torch.Tensor,
        alpha: float | None = None,
    ) -> torch.Tensor:
        """The estimate of Σ g_i over all clients from the gradients that arrived.

        Args:
            gradients: client → g_i, float32 (features, outputs).
            coded_gradient: g_s, of the same shape.
            alpha: α under "convex" and "adaptive"; None: the setting's.

        Returns:
            float32 (features, outputs).

        Raises:
            DtypeError: something has a wrong type or dtype.
            ArgumentError: a client is unknown, α is out of range, or a gradient has another shape
                or is not finite.
        """
        expect_tensor("SCFL.aggregate", "coded_gradient", coded_gradient, torch.float32)
        if not bool(torch.isfinite(coded_gradient).all()):
            raise ArgumentError("SCFL.aggregate: coded_gradient is not finite")
        if alpha is not None and expect_not_negative("SCFL.aggregate", "alpha", alpha) > 1:
            raise ArgumentError(f"SCFL.aggregate: alpha is {alpha}; it must be in [0, 1]")
        self.expect_gradients(gradients, coded_gradient)
        return self.combined(gradients, coded_gradient, self.alpha if alpha is None else alpha)

    def combined(
        self, gradients: Mapping[int, torch.Tensor], coded_gradient: torch.Tensor, share: float
    ) -> torch.Tensor:
        """As :meth:`aggregate`, of arguments that have been checked; ``share`` is α."""
        if self.rule == "complement":
            total = coded_gradient.clone()
            for client in sorted(gradients):
                total += gradients[client]
            return total
        total = (1 - share) * coded_gradient
        for client in sorted(gradients):
            total += gradients[client] * (share / self.probabilities[client])
        return total

    def client(self, index: int, x: torch.Tensor, y: torch.Tensor) -> SCFLClient:
        """Client number ``index``.

        Args:
            index: one of those in ``arrival``.
            x: float32 (samples, features), the records that it computes gradients on.
            y: float32 (samples,) or (samples, outputs).

        Raises:
            DtypeError, ArgumentError: an argument is wrong.
        """
        from pyfed.coded.scfl_client import SCFLClient

        return SCFLClient(self, index, x, y)

    def server(self, coded: CodedDataset, weight: torch.Tensor | None = None) -> SCFLServer:
        """The server, which holds the sum of the coded sets.

        Args:
            coded: encoded with ``arrival=`` for "complement", and without it else.
            weight: the first W, float32 (features, outputs); None: zeros.

        Raises:
            DtypeError: an argument has a wrong type or dtype.
            ArgumentError: it does not fit, or W would diverge; the message says what to change.
        """
        from pyfed.coded.scfl_server import SCFLServer

        return SCFLServer(self, coded, weight)

    def expect_client(self, client: object) -> float:
        """The p of a client; raises unless there is such a one."""
        number = plain(client)
        if isinstance(number, bool) or not isinstance(number, int):
            raise DtypeError(f"SCFL: a client is {type(client).__name__}; it must be an int")
        if number not in self.probabilities:
            raise ArgumentError(
                f"SCFL: client {client} has no probability in arrival, which is of "
                f"{len(self.probabilities)} clients"
            )
        return self.probabilities[number]

    def expect_gradients(self, gradients: object, like: torch.Tensor) -> None:
        """Raise unless these are gradients of known clients, of the shape of ``like``."""
        if not isinstance(gradients, Mapping):
            kind = type(gradients).__name__
            raise DtypeError(f"SCFL: gradients is {kind}; it must be a dict, client → gradient")
        for client, gradient in gradients.items():
            self._expect_gradient(client, gradient, like)

    def _expect_gradient(self, client: object, gradient: object, like: torch.Tensor) -> None:
        self.expect_client(client)
        if not isinstance(gradient, torch.Tensor) or gradient.dtype != torch.float32:
            kind = getattr(gradient, "dtype", type(gradient).__name__)
            raise DtypeError(f"SCFL: gradients[{client}] is {kind}; it must be a float32 tensor")
        if gradient.shape != like.shape or gradient.device != like.device:
            raise ArgumentError(
                f"SCFL: gradients[{client}] has shape {tuple(gradient.shape)} on "
                f"{gradient.device}; it must have {tuple(like.shape)} on {like.device}"
            )
        if not bool(torch.isfinite(gradient).all()):
            raise ArgumentError(f"SCFL: gradients[{client}] is not finite")


def _probabilities(arrival: object) -> dict[int, float]:
    """Client → p of what a caller gave."""
    if hasattr(arrival, "tolist"):
        arrival = arrival.tolist()
    if isinstance(arrival, Mapping):
        pairs = list(arrival.items())
    elif isinstance(arrival, Sequence) and not isinstance(arrival, str | bytes):
        pairs = list(enumerate(arrival))
    else:
        kind = type(arrival).__name__
        raise DtypeError(f"SCFL: arrival is {kind}; it must be a list of probabilities or a dict")
    pairs = [(plain(client), p) for client, p in pairs]
    for client, _ in pairs:
        expect_int("SCFL", "a client in arrival", client, 0, 2**31)
    return {client: _probability(client, p) for client, p in pairs}


def _probability(client: int, given: object) -> float:
    """The p of a client; raises unless it is in (0, 1]."""
    p = expect_number("SCFL", f"arrival[{client}]", plain(given))
    if not 0 < p <= 1:
        advice = "" if p else ": leave out a client that never arrives"
        raise ArgumentError(f"SCFL: arrival[{client}] is {p}; it must be in (0, 1]{advice}")
    return p


def batch_of(seed: int, place: int, count: int, size: int) -> torch.Tensor:
    """``size`` different numbers below ``count``, int64, uniform; the same for seed and place."""
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + place) % 2**63)
    return torch.randperm(count, generator=generator)[:size]

"""The state of the hook for DistributedDataParallel: keys, the step, and where gradients stand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pyfed.checks import INDICES, STREAMS, expect_int, expect_key
from pyfed.engines.distributed.agreement import Step, agreed
from pyfed.engines.distributed.link import Link
from pyfed.engines.distributed.masking import ARITHMETICS, TAIL, Masking
from pyfed.engines.distributed.pairs import agreed_pairs
from pyfed.engines.distributed.positions import Positions, Run, Spent
from pyfed.errors import ArgumentError, DtypeError, ProtocolError, PyfedError
from pyfed.fixed import FixedPoint
from pyfed.keys import Key

OP = "MaskedGradients"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
NONFINITE = ("raise", "propagate")


class MaskedGradients:
    """The state of :func:`mask_gradients`: keys with every other rank, and the number of the step.

    Every rank must make one. Each two ranks agree on a key by X25519 over the group. In a step a
    rank clips its gradients, rounds them without bias to multiples of 2^-s, and adds the mask of
    each of its keys, with opposite signs at the two ends, so that masks cancel in the sum. The
    masks of element e in step n are number e of stream n of a key, whatever bucket it is in; no
    number serves twice, in 2^32 steps.

    Each rank sees the sum, as in every data-parallel job, so of two ranks each can tell the
    other's gradient; of three and more it takes all but one to tell the last one's.

    Args:
        model: the DistributedDataParallel that the hook is registered with.
        clip: gradients are clipped to [-clip, clip], element by element.
        bits: bits of a value, with its sign. An element is off by less than 2·clip / 2^(bits - 1)
            of the plain mean, and by nothing on average.
        group: the process group of the model; None: that which it has.
        key: this rank's secret, which is copied; None takes a fresh one from the operating
            system, as production code does. It must differ between ranks. It makes the rounding
            repeatable; masks are under keys that are agreed on anew each time.
        arithmetic: ``"field"``: residues, by a reduce-scatter and an all-gather, which is the
            faster on gloo; ``"words"``: 32-bit words modulo 2^32, by one asynchronous all_reduce.
            The sums are equal.
        nonfinite: what a NaN or an infinity on any rank does. ``"raise"``: every rank raises out
            of ``backward``, and DistributedDataParallel must be made anew. ``"propagate"``: the
            bucket becomes NaN on every rank, which a ``GradScaler`` waits for.

    Raises:
        DtypeError, ArgumentError: an argument is wrong, here or on another rank, or differs.

    Attributes:
        step: number of the step that comes next; it may be set, to a later one.
    """

    def __init__(
        self,
        model: nn.Module,
        clip: float = 1.0,
        bits: int = 20,
        group: Any = None,
        key: Key | None = None,
        arithmetic: str = "field",
        nonfinite: str = "raise",
    ) -> None:
        if group is None:
            group = getattr(model, "process_group", None)
        self._link = Link(OP, group)
        self._step = 0
        self._spent = Spent()

        def prepare() -> Step:
            parameters = _expect_model(model)
            for name, value, known in (
                ("arithmetic", arithmetic, ARITHMETICS),
                ("nonfinite", nonfinite, NONFINITE),
            ):
                if value not in known:
                    raise ArgumentError(f"{OP}: {name} is {value!r}; it must be one of {known}")
            if key is not None:
                expect_key(OP, key)
            positions = Positions(parameters)
            most = INDICES // (1 + TAIL) - 1
            if positions.total > most:
                raise ArgumentError(f"{OP}: model has {positions.total} elements, above {most}")
            fixed = FixedPoint(clip=clip, bits=bits, clients=self._link.size)
            facts = (clip, bits, arithmetic, nonfinite, positions.total)
            return Step((positions, fixed), facts)

        made: Any
        made, _ = agreed(OP, self._link, prepare)
        self._positions, fixed = made
        self._nonfinite = nonfinite
        root = Key.generate() if key is None else Key(key.reveal())
        try:
            numbers = (float(clip), bits, arithmetic, self._positions.total)
            keys, signs = agreed_pairs(OP, self._link, root, numbers)
            total, rounding = self._positions.total, root.derive("rounding")
            self._masking = Masking(fixed, keys, signs, rounding, arithmetic, total)
        finally:
            root.wipe()

    @property
    def step(self) -> int:
        """Number of the step that comes next."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        expect_int(OP, "step", step, 0, STREAMS + 1)
        if step < self._step:
            raise ArgumentError(
                f"{OP}: step is {step} and was {self._step}; it only goes up, or masks would serve "
                "twice"
            )
        if step > self._step:
            self._spent.clear()
        self._step = step

    def close(self) -> None:
        """Overwrite the keys; the hook raises afterwards."""
        self._masking.wipe()
        self.step = STREAMS

    def reduce(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        """The mean over all ranks of a bucket's gradients, in the bucket's own buffer."""
        buffer: torch.Tensor = bucket.buffer()
        runs = self._positions.runs(bucket.parameters())
        known = sum(run.size for run in runs)
        if known != buffer.numel():
            raise PyfedError(
                f"mask_gradients: a bucket has {buffer.numel()} elements, and its parameters have "
                f"{known}; gradients must be dense"
            )
        step = self._step_of(runs)
        if bucket.is_last():
            self._next_step()
        bad = (buffer * 0).sum().isnan()  # 0 · x is 0 for every number, so no sum can overflow
        values = torch.nan_to_num(buffer, 0.0, 0.0, 0.0)
        payload = self._masking.masked(values, runs, step, bad.to(torch.int32))

        def finish(total: torch.Tensor) -> torch.Tensor:
            mean, steps, spoilt = self._masking.mean(total, self._link.size)
            self._expect_together(step, steps, spoilt)
            buffer.copy_(mean if spoilt == 0 else torch.full_like(mean, float("nan")))
            return buffer

        return self._masking.summed(self._link, payload, finish)

    def _step_of(self, runs: list[Run]) -> int:
        """The step that these elements belong to; raises when it has no stream left."""
        if self._spent.overlaps(runs):
            self._next_step()
        if self.step >= STREAMS:
            raise PyfedError(
                "mask_gradients: all 2^32 steps of these keys are used, or they are closed; make a "
                "new MaskedGradients, with new keys"
            )
        self._spent.add(runs)
        return self.step

    def _next_step(self) -> None:
        self.step += 1

    def _expect_together(self, step: int, steps: int, spoilt: int) -> None:
        """Raise unless all ranks masked with one step, and had numbers for gradients."""
        modulus = self._masking.modulus
        if (steps - step * self._link.size) % modulus:
            raise ProtocolError(
                f"mask_gradients: the ranks are not at one step; this one is at {step}. A backward "
                "pass broke off on some ranks: make a new MaskedGradients on all"
            )
        if spoilt and self._nonfinite == "raise":
            raise ArgumentError(
                f"mask_gradients: gradients are NaN or infinite on {spoilt} of {self._link.size} "
                "ranks; lower the learning rate, or pass nonfinite='propagate' with a GradScaler"
            )


def _expect_model(model: object) -> list[torch.Tensor]:
    """The parameters with gradients, in the model's order."""
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise DtypeError(f"{OP}: model is {kind}; it must be a DistributedDataParallel module")
    parameters: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dtype not in FLOATS:
            raise DtypeError(
                f"{OP}: parameter {name} has dtype {parameter.dtype}; it must be float32, float16 "
                "or bfloat16"
            )
        parameters.append(parameter)
    return parameters

"""Dropout of adapters by counter, which a client meets alike in a bank and when it trains alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pyfed.checks import expect_int, expect_key
from pyfed.keys import Key
from pyfed.ops.clients import expect_rate
from pyfed.ops.dropout import counter_dropout


def dropout_key(key: Key, path: str) -> Key:
    """The key of one adapted layer's dropout, named by its path in the PEFT model."""
    return key.derive(f"pyfed.lora dropout {path}")


def dropout_stream(client: int, step: int) -> int:
    """The stream of a client at a step: the client in the high word, the step in the low one."""
    return client << 32 | step % 2**32


@dataclass
class DropoutClock:
    """Whose dropout it is, and at which step: shared by all :class:`CounterDropout` of a model.

    Args:
        client: its number in the bank.
        step: how many training passes it has made; add 1 after each.
    """

    client: int = 0
    step: int = 0


class CounterDropout(nn.Module):
    """Dropout that a :class:`ClientBank` gives to one client's layer, as a module for PEFT.

    Put in the place of ``lora_dropout[adapter]`` it lets one client train alone with the very masks
    that it has in the bank. Outside training it does nothing.

    Args:
        rate: the part that is dropped, in [0, 1).
        key: of this layer; :meth:`ClientBank.counter_dropouts` derives it.
        clock: client and step.

    Raises:
        DtypeError: an argument has a wrong type.
        ArgumentError: ``rate`` is out of range.

    Example:
        >>> import torch
        >>> from pyfed import Key
        >>> from pyfed.lora import CounterDropout, DropoutClock
        >>> dropout = CounterDropout(0.5, Key(bytes(32)), DropoutClock(client=3))
        >>> x = torch.ones(2, 4)
        >>> bool((dropout(x) == dropout(x)).all()), bool((dropout.eval()(x) == x).all())
        (True, True)
    """

    def __init__(self, rate: float, key: Key, clock: DropoutClock) -> None:
        super().__init__()
        expect_rate("CounterDropout", "rate", rate)
        expect_key("CounterDropout", key)
        expect_int("CounterDropout", "client", clock.client, 0, 2**31)
        self.rate, self.key, self.clock = float(rate), key, clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop the same elements of x (…, features) as the bank does at this step."""
        if not self.training or self.rate == 0:
            return x
        stream = torch.tensor([dropout_stream(self.clock.client, self.clock.step)], device=x.device)
        return counter_dropout(x, self.rate, self.key, stream=stream)

    def extra_repr(self) -> str:
        """Rate and clock; never the key."""
        return f"rate={self.rate}, clock={self.clock}"


def dropouts_of(
    rates: Mapping[str, float], key: Key, client: int, step: int
) -> tuple[dict[str, CounterDropout], DropoutClock]:
    """One module for each adapted layer, and the clock that they share."""
    clock = DropoutClock(client, step)
    made = {
        path: CounterDropout(rate, dropout_key(key, path), clock) for path, rate in rates.items()
    }
    return made, clock

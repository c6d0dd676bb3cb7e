"""The errors that pyfed raises: each names the argument, what it got and what it must be."""

from collections.abc import Iterable


class PyfedError(Exception):
    """Base of every error of this library."""


class ArgumentError(PyfedError, ValueError):
    """An argument has a wrong value, shape or device."""


class DtypeError(PyfedError, TypeError):
    """An argument has a wrong type or dtype."""


class BackendError(PyfedError, RuntimeError):
    """A kernel that was asked for cannot run, or reported a fault."""


class ThresholdError(PyfedError):
    """Too few participants are left to go on.

    Attributes:
        missing: numbers of the participants that did not answer, sorted.
        needed: how many answers are needed.
    """

    def __init__(self, message: str, *, missing: Iterable[int] = (), needed: int = 0) -> None:
        super().__init__(message)
        self.missing = tuple(sorted(missing))
        self.needed = needed


class DecodeError(PyfedError):
    """Rows that are offered for decoding contradict one another.

    Attributes:
        rows: share numbers known to be wrong, sorted; empty when they cannot be told apart.
    """

    def __init__(self, message: str, *, rows: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(sorted(rows))


class ProtocolError(PyfedError):
    """A message is malformed, forged, stale or out of order; the receiver's state is unchanged.

    Attributes:
        sender: number of the peer that the message claims to come from, or None when unknown.
        phase: name of the phase in which it was received.
    """

    def __init__(self, message: str, *, sender: int | None = None, phase: str = "") -> None:
        super().__init__(message)
        self.sender = sender
        self.phase = phase

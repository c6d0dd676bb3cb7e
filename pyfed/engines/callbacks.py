"""What a run tells while it goes on: a record a round, to a file, TensorBoard or Weights & Biases.

The library itself prints nothing, and logs to ``logging.getLogger("pyfed")`` alone, which is silent
until a program gives it a handler.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from pyfed.errors import ArgumentError, DtypeError

LOG = logging.getLogger("pyfed.engines")


@runtime_checkable
class RoundCallback(Protocol):
    """Anything with a method ``on_round_end(record)``, called once when a round is over.

    A record is a dict of numbers, strings, lists of numbers, and dicts of these; it always has
    ``"protocol"`` and ``"round"``. What a callback raises ends the run.
    """

    def on_round_end(self, record: dict[str, Any]) -> None:
        """Take the record of a round; it is the callback's own."""


class JsonLines:
    """Appends a line of JSON for each round to a file.

    Args:
        path: of the file; what is in it stays.

    Example:
        >>> import tempfile
        >>> from pyfed.engines.callbacks import JsonLines
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     JsonLines(f"{folder}/rounds.jsonl").on_round_end({"round": 3, "loss": 0.5})
        ...     open(f"{folder}/rounds.jsonl").read().splitlines()
        ['{"round": 3, "loss": 0.5}']
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path):
            kind = type(path).__name__
            raise DtypeError(f"JsonLines: path is {kind}; it must be a str or a Path")
        self._path = Path(path)
        if not self._path.parent.is_dir():
            raise ArgumentError(f"JsonLines: there is no folder {self._path.parent}; make it first")

    def on_round_end(self, record: dict[str, Any]) -> None:
        """Append the record; numbers of numpy and torch become plain ones, sets sorted lists."""
        try:
            line = json.dumps(record, default=_plain)
        except TypeError as error:
            raise DtypeError(f"JsonLines: the record has no form in JSON: {error}") from None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class _Closing(ABC):
    """What is closed at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """Close what was opened here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TensorBoard(_Closing):
    """Writes the numbers of each round as scalars, named by their place: ``seconds/upload``.

    Args:
        folder: where event files go.
        writer: a ``SummaryWriter`` of the caller's own, in place of ``folder``.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed; the message says how it would be.
    """

    def __init__(self, folder: str | Path | None = None, writer: Any = None) -> None:
        if (folder is None) == (writer is None):
            raise ArgumentError("TensorBoard: give either folder or writer")
        self._own = writer is None
        if writer is None:
            writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))
        self._writer = writer

    def on_round_end(self, record: dict[str, Any]) -> None:
        """Write the record's numbers at the step ``record["round"]``."""
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, record["round"])
        self._writer.flush()

    def close(self) -> None:
        """Close the writer that this adapter has opened."""
        if self._own:
            self._writer.close()


class WeightsAndBiases(_Closing):
    """Logs the numbers of each round to a run of Weights & Biases, named by their place.

    Args:
        run: a run of the caller's own; None: ``wandb.init(**settings)`` makes one.
        settings: for ``wandb.init``, such as ``project`` and ``mode="offline"``.

    Raises:
        ModuleNotFoundError: wandb is not installed; the message says how it would be.
    """

    def __init__(self, run: Any = None, **settings: Any) -> None:
        if run is not None and settings:
            raise ArgumentError(
                f"WeightsAndBiases: run is given beside {', '.join(settings)}, which are for a new "
                "run"
            )
        self._own = run is None
        self._run = _package("wandb", "wandb").init(**settings) if run is None else run

    def on_round_end(self, record: dict[str, Any]) -> None:
        """Log the record's numbers at the step ``record["round"]``."""
        self._run.log(dict(scalars(record)), step=record["round"])

    def close(self) -> None:
        """Finish the run that this adapter has begun."""
        if self._own:
            self._run.finish()


def scalars(record: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record with their place in it; other values are left out.

    Example:
        >>> from pyfed.engines.callbacks import scalars
        >>> list(scalars({"round": 1, "seconds": {"upload": 0.5}, "included": [0, 2]}))
        [('seconds/upload', 0.5)]
    """
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{path}{name}/")
            continue
        if getattr(value, "shape", None) == ():  # a scalar of numpy or torch
            value = value.item()
        if isinstance(value, int | float) and f"{path}{name}" != "round":
            yield f"{path}{name}", float(value)


def expect_callbacks(op: str, callbacks: object) -> tuple[RoundCallback, ...]:
    """The callbacks as a tuple; raises unless each has ``on_round_end``."""
    if not isinstance(callbacks, Iterable):
        kind = type(callbacks).__name__
        raise DtypeError(f"{op}: callbacks is {kind}; it must be a list of callbacks")
    found = tuple(callbacks)
    for number, one in enumerate(found):
        if not callable(getattr(one, "on_round_end", None)):
            kind = type(one).__name__
            raise DtypeError(
                f"{op}: callbacks[{number}] is {kind}; it must have a method on_round_end"
            )
    return found


def round_ended(
    callbacks: Iterable[RoundCallback],
    protocol: str,
    round_: int,
    traffic: Mapping[tuple[str, str], int] | None = None,
    **facts: Any,
) -> None:
    """Give every callback a record of its own.

    Args:
        callbacks: who is told.
        protocol: name of what was run.
        round_: number of the round.
        traffic: (role, phase) → bytes; told as ``bytes`` {role: {phase: bytes}}.
        facts: all else.
    """
    LOG.info("%s: round %d is over", protocol, round_)
    for one in callbacks:
        bytes_: dict[str, dict[str, int]] = {}
        for (role, phase), count in (traffic or {}).items():
            bytes_.setdefault(role, {})[phase] = count
        own = copy.deepcopy(facts)
        one.on_round_end({"protocol": protocol, "round": round_, **own, "bytes": bytes_})


def _plain(value: Any) -> Any:
    """What JSON has no form for, in one that it has."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"it holds {type(value).__name__}")


def _package(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        raise ModuleNotFoundError(
            f"pyfed.engines.callbacks needs {package} here, and there is no module "
            f"{absent.name!r}; run: pip install {package}",
            name=absent.name,
        ) from absent

"""What the extra ``coded`` installs, imported where it is first needed."""

from __future__ import annotations

import importlib
from typing import Any


def scipy(name: str) -> Any:
    """The module ``scipy.name``.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how it would be.
    """
    return _found(f"scipy.{name}")


def dp_accounting() -> Any:
    """The package ``dp_accounting``.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how it would be.
    """
    return _found("dp_accounting")


def _found(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as absent:
        package = name.split(".")[0]
        raise ModuleNotFoundError(
            f"pyfed.coded needs {package} here, and there is no module {absent.name!r}; run: "
            'pip install "pyfed-kernels[coded]"',
            name=absent.name,
        ) from absent

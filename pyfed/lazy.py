"""Packages whose names are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def lazy(
    package: str, home: Mapping[str, str], extra: str = "", needs: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of a package (PEP 562).

    Args:
        package: the package's name.
        home: name → the module that has it; or, for a module, the module itself.
        extra: of pyfed-kernels, which installs what ``needs`` has.
        needs: packages that the extra installs.

    Example:
        >>> from pyfed.lazy import lazy
        >>> find, names = lazy("pyfed", {"Key": "pyfed.keys"})
        >>> find("Key")
        <class 'pyfed.keys.Key'>
        >>> "Key" in names()
        True
    """
    members = vars(sys.modules[package])

    def found(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(home[name])
        except ModuleNotFoundError as absent:
            missing = str(absent.name).split(".")[0]
            if missing not in needs:
                raise
            raise ModuleNotFoundError(
                f"{package}.{name} needs {missing}, which is not installed; run: "
                f'pip install "pyfed-kernels[{extra}]"',
                name=absent.name,
            ) from absent
        members[name] = module if home[name] == f"{package}.{name}" else getattr(module, name)
        return members[name]

    return found, lambda: sorted({*members, *home})

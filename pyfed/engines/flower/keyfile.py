"""The key of a client's machine, under which it keeps its state between messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pyfed.errors import ArgumentError
from pyfed.keys import KEY_BYTES, Key
from pyfed.secagg.journal import synchronise

CONFIG = "pyfed-key-file"
"""Name of the path in a node's configuration."""
DEFAULT = Path("~/.pyfed/flower.key")


def key_path(path: str | os.PathLike[str] | None, node_config: Mapping[str, object]) -> Path:
    """Where the key is: the option, else the node's configuration, else the default."""
    chosen = path if path is not None else node_config.get(CONFIG, DEFAULT)
    if not isinstance(chosen, str | os.PathLike):
        raise ArgumentError(f"{CONFIG} is {chosen!r}; it must be a path")
    return Path(chosen).expanduser()


def machine_key(path: Path) -> Key:
    """The key in a file; a fresh one is put there when there is no such file.

    Whoever comes first makes the file, whole and with mode 0600, and all others read it.

    Raises:
        ArgumentError: as :func:`read_key`.
    """
    if not path.exists():
        _make(path)
    return read_key(path)


def read_key(path: Path) -> Key:
    """The key in a file that is there.

    Raises:
        ArgumentError: there is no such file, it holds no key, or others than this process's user
            own it, or may read or write it.
    """
    if not path.is_file():
        raise ArgumentError(f"there is no key file {path}; it must hold {KEY_BYTES} secret bytes")
    with path.open("rb") as file:
        found = os.fstat(file.fileno())  # of what is read, whatever the path is by now
        _expect_own("key file", path, found)
        mode = found.st_mode & 0o777
        if mode & 0o077:
            raise ArgumentError(
                f"the key file {path} has mode {mode:03o}, so that others may read or write it; it "
                "must have mode 600"
            )
        secret = file.read(KEY_BYTES + 1)
    if len(secret) != KEY_BYTES:
        raise ArgumentError(
            f"the key file {path} has {found.st_size} bytes; it must have {KEY_BYTES}"
        )
    return Key(secret)


def own_folder(path: Path) -> Path:
    """A folder that only this process's user writes to; made when it is missing.

    Raises:
        ArgumentError: it is something else, or others may write to it.
    """
    if not path.exists():
        path.mkdir(mode=0o700, exist_ok=True)
        synchronise(path.parent)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ArgumentError(f"{path} is no folder of its own; journals must be kept there")
    _expect_own("folder", path, found)
    if found.st_mode & 0o022:
        raise ArgumentError(
            f"the folder {path} has mode {found.st_mode & 0o777:03o}, so that others may take "
            "journals away; it must have mode 700"
        )
    return path


def _expect_own(what: str, path: Path, found: os.stat_result) -> None:
    user = os.geteuid()
    if found.st_uid not in (user, 0):
        raise ArgumentError(
            f"the {what} {path} belongs to user {found.st_uid}, who may change it; it must belong "
            f"to user {user}, whose process this is"
        )


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(8).hex()}")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, os.urandom(KEY_BYTES))
        os.fsync(file)
        os.link(draft, path)  # fails where another was faster, whose key is then the one
        synchronise(path.parent)
    except FileExistsError:
        pass
    finally:
        os.close(file)
        draft.unlink()

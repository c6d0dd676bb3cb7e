"""What a client has released, kept safe from a crash, so that it never releases two things."""

from __future__ import annotations

import fcntl
import os
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from pyfed.errors import ArgumentError, ProtocolError


class Journal(Protocol):
    """Keeps what one client releases in one round.

    A client calls ``record`` before it releases a message, with what the message does and 32 bytes
    that stand for what it is about: ``"roster"`` (the session), ``"share"``, ``"upload"`` (the
    masked residues), ``"commit"`` and ``"answer"`` (the survivors), and of single protocols
    ``"coin"``, ``"hop"`` and ``"query"``. When ``record`` returns, the entry must be safe from a
    crash. When the kind is already recorded with another digest, it must raise
    :class:`pyfed.errors.ProtocolError`: the same mask over two updates, or shares summed over two
    sets, would uncover them. When an entry could not be kept it must raise OSError: nothing is
    released then, and the step may be tried again; after any other error the client is closed.
    """

    def record(self, kind: str, digest: bytes) -> None:
        """Keep an entry, or raise."""


class FileJournal:
    """A journal in a file of its own for each client and round, synchronised at every entry.

    Args:
        path: the file; made when missing. A line holds a kind and a digest in hexadecimal. A line
            that a crash cut short was never followed by a message, and is dropped.

    Raises:
        ProtocolError: the file holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._entries: dict[str, bytes] = {}
        if not self._path.parent.is_dir():
            raise ArgumentError(f"FileJournal: there is no folder {self._path.parent}")
        with self._path.open("a+b") as file:
            self._locked(file)

    def _locked(self, file: BinaryIO | FileIO) -> int:
        """Lock the file until it is closed, take in what it holds, and drop a line cut short.

        Returns:
            Bytes of whole lines in the file.
        """
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        data = file.read()
        cut = self._read(data)
        if cut:
            file.truncate(len(data) - cut)
        return len(data) - cut

    def _read(self, data: bytes) -> int:
        """Take in the whole lines of the file; gives the length of a line that was cut short."""
        whole, _, cut = data.rpartition(b"\n")
        for line in whole.decode("ascii", "replace").splitlines():
            kind, _, digest = line.partition(" ")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ProtocolError(f"the journal {self._path} is damaged: {line[:80]!r}")
            if self._entries.setdefault(kind, bytes.fromhex(digest)) != bytes.fromhex(digest):
                raise ProtocolError(f"the journal {self._path} holds two of {kind}: it is burnt")
        return len(cut)

    def record(self, kind: str, digest: bytes) -> None:
        """Keep an entry on disk before returning; one thread and one process at a time.

        Raises:
            ProtocolError: this kind was recorded with another digest, or the file is gone.
        """
        if not self._path.exists():
            raise ProtocolError(f"the journal {self._path} is gone, and what was released with it")
        with self._path.open("a+b", buffering=0) as file:
            known = self._locked(file)  # another process may have recorded since
            if kind in self._entries:
                if self._entries[kind] != digest:
                    raise ProtocolError(
                        f"the journal {self._path} already has another {kind}: this round is burnt"
                    )
                return
            if not known:  # the name of a new file is safe once its directory is
                synchronise(self._path.parent)
            line = f"{kind} {digest.hex()}\n".encode("ascii")
            try:
                if file.write(line) != len(line):
                    raise OSError(f"the journal {self._path} took a part of its line")
                os.fsync(file.fileno())
            except BaseException:
                # Else a second attempt would find the line, and take it for safe.
                file.truncate(known)
                raise
        self._entries[kind] = digest


def synchronise(folder: Path) -> None:
    """Return when the names in a folder are safe on the disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

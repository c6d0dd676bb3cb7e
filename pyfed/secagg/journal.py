"""What a client has released, kept safe from a crash, so that it never releases two things."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from pyfed.errors import ProtocolError


class Journal(Protocol):
    """Keeps what one client releases in one round.

    A client calls ``record`` before it releases a message: kind ``"upload"`` with the SHA-256 of
    its masked residues, kind ``"answer"`` with the SHA-256 of the survivors. When ``record``
    returns, the entry must be safe from a crash. When the kind is already recorded with another
    digest, it must raise :class:`pyfed.errors.ProtocolError`: the same mask over two updates, or
    shares summed over two sets, would uncover them.
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
        text = self._path.read_text("ascii") if self._path.exists() else ""
        whole, _, cut = text.rpartition("\n")
        for line in whole.splitlines():
            kind, _, digest = line.partition(" ")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ProtocolError(f"the journal {self._path} is damaged: {line[:80]!r}")
            self._entries[kind] = bytes.fromhex(digest)
        if cut:
            os.truncate(self._path, len(text) - len(cut))  # the text is ASCII

    def record(self, kind: str, digest: bytes) -> None:
        """Keep an entry on disk before returning.

        Raises:
            ProtocolError: this kind was recorded with another digest.
        """
        if kind in self._entries:
            if self._entries[kind] != digest:
                raise ProtocolError(
                    f"the journal {self._path} already has another {kind}: this round is burnt"
                )
            return
        new = not self._path.exists()
        with self._path.open("a") as file:
            file.write(f"{kind} {digest.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        if new:  # the name of a new file is safe once its directory is
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        self._entries[kind] = digest

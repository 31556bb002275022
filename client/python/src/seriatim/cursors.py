"""Cursors: where a device keeps how far it has stored its inbox, so that it goes on there when it starts again.

A cursor is exclusive: everything below it is stored. One store is for one device of one user.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Protocol, runtime_checkable

from seriatim.entry import check_seq
from seriatim.errors import CursorStoreError

_VERSION = 1
_FILE_BYTES_MAX = 4_096


@runtime_checkable
class CursorStore(Protocol):
    """What a client needs of one. Its methods may block: the client calls them in a thread, one at a time."""

    def load(self) -> int | None:
        """The cursor that was kept last, `None` if there never was one. `CursorStoreError` if that is not known."""

    def save(self, cursor: int) -> None:
        """Keeps it, over a crash too once this returns. `CursorStoreError` if not; then the one before counts."""


class MemoryCursorStore:
    """Forgets with the process: for tests, and for devices that keep nothing."""

    def __init__(self, cursor: int | None = None) -> None:
        self._cursor = cursor

    def load(self) -> int | None:
        """As `CursorStore.load`."""
        return self._cursor

    def save(self, cursor: int) -> None:
        """As `CursorStore.save`."""
        self._cursor = check_seq(cursor)


class FileCursorStore:
    """A file of one line of JSON, replaced as a whole: a crash leaves the old one or the new one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> int | None:
        """As `CursorStore.load`. A file that is no cursor is an error, and stays as it is."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CursorStoreError(f"read {self._path}") from error
        try:
            kept = json.loads(text)
            if kept["version"] != _VERSION:
                raise ValueError(f"version {kept['version']}")
            cursor = kept["cursor"]
            if not isinstance(cursor, int):
                raise ValueError(f"a cursor that is no number: {cursor!r}")
            return check_seq(cursor)
        except (ValueError, KeyError, TypeError) as error:
            raise CursorStoreError(f"{self._path} is no cursor") from error

    def save(self, cursor: int) -> None:
        """As `CursorStore.save`."""
        text = json.dumps({"version": _VERSION, "cursor": check_seq(cursor)}) + "\n"
        scratch = None
        try:
            handle, scratch = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name + ".")
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._path)
            scratch = None
            self._sync_folder()
        except OSError as error:
            raise CursorStoreError(f"write {self._path}") from error
        finally:
            if scratch is not None:
                Path(scratch).unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        # The new name is durable with its folder. Windows has no such thing.
        if os.name != "posix":
            return
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

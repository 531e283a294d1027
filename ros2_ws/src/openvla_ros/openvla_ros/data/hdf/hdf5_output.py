"""A file that HDF5 writes through Python, so that a full disk is an error instead of a crash.

The HDF5 library cannot close a file whose last writes failed: it raises again or ends the process. So no
write fails here: what finds no room is kept in memory, and ``check`` raises the disk's error afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path


class Hdf5Output:
    """The file object that ``h5py.File`` writes to; call ``check`` after each part and after closing it."""

    def __init__(self, path: Path) -> None:
        """Create ``path``, or empty it; raises ``OSError``."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._position = 0
        self._error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []  # offset and bytes for which there was no room

    def check(self) -> None:
        """Raise the ``OSError`` of the first write that failed."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._kept.clear()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to ``offset``, or to the end; return the position."""
        end = os.fstat(self._descriptor).st_size if whence == os.SEEK_END else 0
        self._position = end + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes from the position on."""
        data = bytearray(os.fstat(self._descriptor).st_size if size < 0 else size)
        return bytes(data[: self.readinto(data)])

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill ``buffer`` from the position on, with what was kept too; return the number of bytes."""
        view, start = memoryview(buffer).cast("B"), self._position
        count = os.preadv(self._descriptor, [view], start)
        for offset, data in self._kept:
            first, last = max(start, offset), min(start + len(view), offset + len(data))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
                count = max(count, last - start)
        self._position += count
        return count

    def write(self, data: bytes | memoryview) -> int:
        """Write ``data`` at the position, or keep it if the disk is full; return its length."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self._error is None and done < len(view):
                done += os.pwrite(self._descriptor, view[done:], self._position + done)
        except OSError as error:
            self._error = error
        if done < len(view):
            self._kept.append((self._position + done, bytes(view[done:])))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Give the file ``size`` bytes; a failure is kept like that of a write."""
        wanted = self._position if size is None else size
        try:
            os.ftruncate(self._descriptor, wanted)
        except OSError as error:
            self._error = self._error or error
        return wanted

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

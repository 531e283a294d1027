"""SHA-256 of files, verified before they are used.

The expected digest comes from one of two places. ``SHA256SUMS`` in the file's folder or a parent, in
the format of ``sha256sum``, is written with every multi-file output of this package; ``sha256sum -c
SHA256SUMS`` checks it too. In the cache of the Hugging Face hub a file is a link to a blob that is named
by its content. A file in neither is not verified, and that is logged once. A list that covers a folder
covers all of it: a file there that it lacks is an error.

Verified files are remembered for the life of the process, by inode, size and change times. Nothing is
cached on disk: such a record would outlive the bits that it vouches for.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from openvla_ros.errors import ChecksumError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_LEVELS = 6  # parent folders to search for SHA256SUMS: LeRobot's videos are four levels deep
_BLOCK = 1 << 20  # bytes
_THREADS = min(4, os.cpu_count() or 1)
# A file may change twice within the resolution of its timestamps, so recent ones are not remembered.
_SETTLED_NS = 2_000_000_000

_LOG = logging.getLogger(__name__)
Identity = tuple[int, int, int, int, int]


def write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write ``folder``/SHA256SUMS for ``files``, which lie in it or below; whole or not at all."""
    chosen = sorted(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(sha256, chosen))
    lines = [
        f"{digest}  {path.relative_to(folder).as_posix()}\n"
        for digest, path in zip(digests, chosen, strict=True)
    ]
    unfinished = folder / f"{SUMS}.part"
    unfinished.write_text("".join(lines), encoding="utf-8")
    unfinished.replace(folder / SUMS)


def read_sums(folder: Path) -> dict[str, str]:
    """Return path → digest of ``folder``/SHA256SUMS, empty without one; raises ``ChecksumError``."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    return _read_sums(path, _identity(path))


@lru_cache(maxsize=64)
def _read_sums(path: Path, _: Identity) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ChecksumError(f"cannot read {path}: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is not None:
            found[match[2].removeprefix("./")] = match[1]
        elif line or number < len(lines):
            raise ChecksumError(
                f"{path}:{number}: {line[:80]!r} is not a line of sha256sum: digest, two spaces, path"
            )
    if not found or lines[-1]:
        raise ChecksumError(f"{path} is truncated")
    return found


@lru_cache(maxsize=64)
def _covered(path: Path, identity: Identity) -> frozenset[PurePosixPath]:
    """Return the folders, relative to that of the list ``path``, in which it lists a file."""
    return frozenset(PurePosixPath(name).parent for name in _read_sums(path, identity))


def absent(folder: Path) -> list[str]:
    """Return the files that ``folder``/SHA256SUMS lists but that are missing."""
    return [name for name in read_sums(folder) if not (folder / name).is_file()]


def check_present(folder: Path) -> None:
    """Raise ``ChecksumError`` naming the files that ``folder``/SHA256SUMS lists but that are missing."""
    lost = absent(folder)
    if lost:
        raise ChecksumError(f"{folder}: {SUMS} lists files that are missing: {', '.join(lost)}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits; raises ``ChecksumError`` if it can't be read."""
    return _digest(path, hashlib.sha256())


def verify(path: Path) -> bool:
    """Verify a file's checksum; return whether it has one. Raises ``ChecksumError``."""
    expected = expected_digest(path)
    if expected is None:
        return False
    identity = _identity(path)
    if _verified.get(identity) == expected:
        return True
    if len(expected) == 64:
        found = sha256(path)
    else:  # git's name of a small file: SHA-1 of a header and the content
        found = _digest(path, hashlib.sha1(f"blob {identity[2]}\0".encode(), usedforsecurity=False))
    if found != expected:
        raise ChecksumError(
            f"{path} was damaged or changed: its checksum is {found[:12]}..., expected "
            f"{expected[:12]}...; if the change is intended, update {SUMS} or remove it"
        )
    if _settled(path):
        _verified[identity] = expected
    return True


def verify_all(paths: Iterable[Path]) -> list[Path]:
    """Verify files, several at a time; return those that have no checksum. Raises ``ChecksumError``."""
    chosen = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        return [path for path, known in zip(chosen, pool.map(verify, chosen), strict=True) if not known]


def expected_digest(path: Path) -> str | None:
    """Return the digest that ``path`` should have: 64 hex digits SHA-256, 40 git's SHA-1, None unknown.

    Raises ``ChecksumError`` if a ``SHA256SUMS`` lists other files of its folder, but not this one.
    """
    absolute = path.absolute()
    lacking = None
    for folder in absolute.parents[:_LEVELS]:
        name = absolute.relative_to(folder)
        if not (sums := read_sums(folder)):
            continue
        if (digest := sums.get(name.as_posix())) is not None:
            return digest
        listed = folder / SUMS
        if lacking is None and PurePosixPath(name.parent) in _covered(listed, _identity(listed)):
            lacking = listed
    digest = _hub_digest(path)
    if digest is None and lacking is not None and path.is_file() and path.name != SUMS:
        raise ChecksumError(
            f"{path} was added or changed: {lacking} has checksums of the files beside it, but not of it; "
            f"if that is intended, update {SUMS} or remove it"
        )
    return digest


def _hub_digest(path: Path) -> str | None:
    """Return the name of the blob that a file in the hub's cache is a link to."""
    if not path.is_symlink():
        return None
    blob = path.resolve()
    named = _SHA256.fullmatch(blob.name) or _SHA1.fullmatch(blob.name)
    return blob.name if named and blob.parent.name == "blobs" else None


@lru_cache(maxsize=256)
def say_unverified(origin: str, what: str) -> None:
    """Log, once per process, that ``origin`` is not verified because of ``what``."""
    _LOG.warning("%s: %s; not verified", origin, what)


_verified: dict[Identity, str] = {}


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except OSError as error:
        raise ChecksumError(f"{path} cannot be read: {error.strerror}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _settled(path: Path) -> bool:
    return time.time_ns() - _identity(path)[4] > _SETTLED_NS


def _digest(path: Path, digest: Any) -> str:
    try:
        with path.open("rb", buffering=0) as stream:
            buffer = bytearray(_BLOCK)
            view = memoryview(buffer)
            while count := stream.readinto(buffer):
                digest.update(view[:count])
    except OSError as error:
        raise ChecksumError(f"{path} cannot be read: {error.strerror}") from error
    return str(digest.hexdigest())

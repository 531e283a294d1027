"""Verifies the checksums of checkpoints and adapters while they are being loaded.

Checkpoints written by this package have a ``SHA256SUMS``; files in the hub's cache are named by their
content. An adapter with neither has the hash of its weights in its manifest. Anything else is loaded
unverified, which is logged once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openvla_ros.integrity.checksums import check_present, say_unverified, verify, verify_all, write_sums

_THREADS = 4  # a published model has three or four shards


@contextmanager
def verified_meanwhile(paths: Iterable[Path]) -> Iterator[None]:
    """Verify files on other threads while the body loads them; use the body's result only afterwards.

    Raises ``ChecksumError`` at the end of the body.
    """
    chosen = sorted(set(paths))
    with ThreadPoolExecutor(_THREADS, "verify") as pool:
        results = {path: pool.submit(verify, path) for path in chosen}
        yield
        _tell(path for path, known in results.items() if not known.result())


def verify_files(paths: Iterable[Path]) -> None:
    """Verify files before they are used; raises ``ChecksumError``."""
    _tell(verify_all(sorted(set(paths))))


def _tell(unknown: Iterable[Path]) -> None:
    for folder in sorted({path.parent for path in unknown}):
        say_unverified(str(folder), "its weights have no checksum")


def write_checkpoint_sums(folder: Path, names: Iterable[str]) -> None:
    """Write the existing ones of ``names`` to ``folder``/SHA256SUMS. Call this last."""
    write_sums(folder, (folder / name for name in set(names) if (folder / name).is_file()))


def describe_checksums(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Verify the files ``names`` in ``folder``; return which have a checksum and which do not.

    Raises ``ChecksumError`` if a file is damaged or missing.
    """
    check_present(folder)
    chosen = sorted({folder / name for name in names if (folder / name).is_file()})
    unknown = set(verify_all(chosen))
    return {
        "verified": [path.name for path in chosen if path not in unknown],
        "no checksum; not verified": [path.name for path in chosen if path in unknown],
    }

"""What must fit between this computer and the arm: the kernel, and the versions of libfranka and the arm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REALTIME_FLAG = Path("/sys/kernel/realtime")


@dataclass(frozen=True)
class Compatibility:
    """Which libfranka speaks to which robot server."""

    server: int  # the number that libfranka and the arm exchange when they connect
    libfranka: str
    system: str  # the arm's system version


# Newest first. Sources: franky's doc/compatibility.json at 209e3a93 (server and libfranka), and the lines
# "Requires" of libfranka's CHANGELOG at 155ddac (system version; it ends with 0.15.0).
COMPATIBILITY = (
    Compatibility(10, "0.18.0 and later", "FR3, newer"),
    Compatibility(9, "0.15.0 to 0.17.0", "FR3, 5.7.2 and later"),
    Compatibility(8, "0.14.1, 0.14.2", "FR3, 5.7.0 and later"),
    Compatibility(7, "0.13.3 to 0.13.5", "FR3, 5.5.0 and later"),
    Compatibility(6, "0.10.0 to 0.13.2", "FR3, 5.2.0 and later"),
    Compatibility(5, "0.9.1, 0.9.2", "Panda, 4.2.1 and later"),
)


def has_realtime_kernel(flag: Path = REALTIME_FLAG) -> bool:
    """Return whether the running kernel is a real-time one (PREEMPT_RT); ``flag`` is where Linux says it."""
    try:
        return flag.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def bundled_libfranka(package: Path) -> str:
    """Return the version of libfranka in the wheel whose package folder is ``package``; empty: unknown."""
    libraries = package.parent / "franky_control.libs"
    names = sorted(path.name for path in libraries.glob("libfranka-*.so.*"))
    return names[-1].partition(".so.")[2] if names else ""


def mismatch(text: str, libfranka: str) -> str:
    """Return what to do about libfranka's refusal ``text`` to talk to an arm of another version."""
    rows = "; ".join(f"server {c.server}: libfranka {c.libfranka} ({c.system})" for c in COMPATIBILITY)
    return (
        f"{text.removeprefix('libfranka: ').strip()} This franky brings libfranka {libfranka or 'unknown'}. "
        f"What fits: {rows}. Install the wheel of franky-control for the arm's "
        "server version, or update the arm"
    )

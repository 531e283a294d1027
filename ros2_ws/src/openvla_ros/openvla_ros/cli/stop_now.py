"""``openvla estop`` and ``openvla hold``, without the imports of the other verbs.

These two are urgent, so the arguments are checked for them before the rest of the program is imported.
Anything else on the command line (``--help``, ``--keyboard``, a mistake) is left to the program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

SERVICES = {"estop": "e_stop", "hold": "hold"}


def plain_stop(arguments: Sequence[str]) -> tuple[str, str] | None:
    """Return the service and the namespace from the command line, or None if it is not a plain stop."""
    match list(arguments):
        case [verb] if verb in SERVICES:
            return SERVICES[verb], ""
        case [verb, "--namespace", namespace] if verb in SERVICES and not namespace.startswith("-"):
            return SERVICES[verb], namespace
        case [verb, option] if verb in SERVICES and option.startswith("--namespace="):
            return SERVICES[verb], option.partition("=")[2]
    return None


def stop_now(service: str, namespace: str) -> int:
    """Stop the arm; print the controller's answer and return the exit code."""
    from openvla_ros.errors import OpenVLARosError
    from openvla_ros.programs.quick_stop import QuickStop

    try:
        with QuickStop(service, namespace) as stop:
            sys.stdout.write(f"{stop.ask()}\n")
            sys.stdout.flush()
    except OpenVLARosError as error:
        sys.stderr.write(f"openvla: {error}\n")
        return 1
    return 0

"""The program ``openvla``: a stop at once, or one of the other verbs.

Nothing else is imported before that is decided: the verbs take a second, and a stop must not wait for them.
"""

from __future__ import annotations

import sys

from openvla_ros.cli.stop_now import plain_stop, stop_now
from openvla_ros.dependencies import missing_package


def main() -> None:
    """Run ``openvla``."""
    stop = plain_stop(sys.argv[1:])
    if stop is not None:
        sys.exit(stop_now(*stop))
    try:
        from openvla_ros.cli.program import run_program

        run_program()
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        sys.exit(f"openvla: {missing}")

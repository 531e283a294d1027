"""The programs: signal handlers first, then the slow imports.

``setup.py`` makes a console program of each function here; ``python -m openvla_ros.nodes NODE`` runs
the nodes, too.
"""

from __future__ import annotations

import sys
from functools import partial

from openvla_ros.bringup.node_program import start
from openvla_ros.bringup.stop_signals import end_at_once

camera_node = partial(start, "camera_node")
controller_node = partial(start, "controller_node")
policy_node = partial(start, "policy_node")
recorder_node = partial(start, "recorder_node")
setpoint_node = partial(start, "setpoint_node")
simulated_camera_node = partial(start, "simulated_camera_node")
simulation_node = partial(start, "simulation_node")
teleop_node = partial(start, "teleop_node")


def openvla() -> None:
    """Run ``openvla``; Ctrl-C before ``openvla up`` has begun also ends it cleanly."""
    if sys.argv[1:2] == ["up"]:
        end_at_once()
    try:
        from openvla_ros.cli.main import main

        main()
    except KeyboardInterrupt:  # during the imports, or in a verb that has nothing to finish
        sys.exit(130)

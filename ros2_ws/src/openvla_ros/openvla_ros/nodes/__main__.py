"""``python -m openvla_ros.nodes NODE --ros-args ...``: runs a node, with signal handling from the start."""

import sys

from openvla_ros.bringup.node_program import start

if __name__ == "__main__":
    start(sys.argv.pop(1))

"""Runs this package's launch file with ``name:=value`` arguments, as ``ros2 launch`` does."""

import signal
import sys
from pathlib import Path

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription, LaunchService

FILE = Path(__file__).resolve().parents[2] / "launch" / "bringup.launch.py"


def main() -> int:
    # A job in a shell's background begins with SIGINT ignored, and launch relies on Python's handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = [tuple(argument.split(":=", 1)) for argument in sys.argv[1:]]
    service = LaunchService(argv=sys.argv[1:], noninteractive=True)
    source = PythonLaunchDescriptionSource(str(FILE))
    included = IncludeLaunchDescription(source, launch_arguments=arguments)
    service.include_launch_description(LaunchDescription([included]))
    return service.run()


if __name__ == "__main__":
    sys.exit(main())

"""The services of ros2_control's controller manager, for the simulated arm's controllers.

``list_controllers``, ``load_controller``, ``configure_controller`` and ``switch_controller`` of
controller_manager_msgs, which comes with ros2_control; without it the simulation has none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.errors import MissingDependencyError
from openvla_ros.sim.simulated_controllers import TYPES

PACKAGE, FOLDER = "controller_manager_msgs", "controller_manager"
# Beside the arm's: always active.
OTHERS = {
    "joint_state_broadcaster": "joint_state_broadcaster/JointStateBroadcaster",
    "gripper_controller": "joint_trajectory_controller/JointTrajectoryController",
}
CRISP = {
    "pose_broadcaster": "crisp_controllers/PoseBroadcaster",
    "twist_broadcaster": "crisp_controllers/TwistBroadcaster",
    "gripper_position_controller": "position_controllers/JointGroupPositionController",
}


def serve_controller_manager(
    node: Node,
    active: Callable[[], str | None],
    switch: Callable[[Sequence[str], Sequence[str], bool], str],
    with_crisp: bool,
) -> bool:
    """Serve the controller manager on ``node``; return whether the messages for it are installed."""
    try:
        kinds = {
            name: interface(f"{PACKAGE}/{name}", "the simulated controller manager")
            for name in (
                "msg/ControllerState", "srv/ListControllers", "srv/LoadController", "srv/ConfigureController",
                "srv/SwitchController",
            )
        }  # fmt: skip
    except MissingDependencyError:
        return False
    arm = dict(TYPES) if with_crisp else dict(list(TYPES.items())[:1])
    others = OTHERS | (CRISP if with_crisp else {})
    state = kinds["msg/ControllerState"]

    def list_all(_request: Any, response: Any) -> Any:
        response.controller = [
            *(state(name=name, type=kind, state="active") for name, kind in others.items()),
            *(
                state(name=name, type=kind, state="active" if name == active() else "inactive")
                for name, kind in arm.items()
            ),
        ]
        return response

    def load(request: Any, response: Any) -> Any:
        response.ok = request.name in arm or request.name in others
        return response

    def change(request: Any, response: Any) -> Any:
        strict = request.strictness == kinds["srv/SwitchController"].Request.STRICT
        activate, deactivate = (
            [name for name in names if name not in others]
            for names in (request.activate_controllers, request.deactivate_controllers)
        )
        problem = switch(activate, deactivate, strict)
        response.ok = not problem
        if hasattr(response, "message"):  # since Jazzy
            response.message = problem
        return response

    for name, kind, answer in (
        ("list_controllers", "srv/ListControllers", list_all),
        ("load_controller", "srv/LoadController", load),
        ("configure_controller", "srv/ConfigureController", load),
        ("switch_controller", "srv/SwitchController", change),
    ):
        node.create_service(kinds[kind], f"{FOLDER}/{name}", answer)
    return True

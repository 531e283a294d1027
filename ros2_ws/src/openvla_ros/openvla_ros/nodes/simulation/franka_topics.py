"""What franka_ros2 offers beside its controllers, on the simulated arm: hand, error recovery, parameters.

As franka_ros2 3.4.0 has them (``gripper_action_server.cpp``, ``franka_action_server.cpp``,
``franka_param_service_server.cpp``): every goal is accepted, a newer one aborts the one under way, and the
fingers are reported with half of the width each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from openvla_ros.drivers.readiness.optional_messages import interface
from openvla_ros.profile import RobotProfile
from openvla_ros.ros import qos
from openvla_ros.sim.franka_hand import ABORTED, Ending, FrankaHand, Goal

PACKAGE, WHAT = "franka_msgs", "the simulated franka_ros2"
# The speed and tolerances of ``gripper_action``: franka_ros2's defaults.
SPEED_M_S, EPSILON_M = 0.1, 0.005
LOOK_S = 0.02  # how often goals under way are looked at; homing's speed is the hand's own
PARAMETERS = {
    "set_joint_stiffness": "SetJointStiffness",
    "set_cartesian_stiffness": "SetCartesianStiffness",
    "set_tcp_frame": "SetTCPFrame",
    "set_stiffness_frame": "SetStiffnessFrame",
    "set_force_torque_collision_behavior": "SetForceTorqueCollisionBehavior",
    "set_full_collision_behavior": "SetFullCollisionBehavior",
    "set_load": "SetLoad",
}


class FrankaTopics:
    """Hands goals to the hand, and answers when it has done with them."""

    def __init__(
        self,
        node: Node,
        profile: RobotProfile,
        hand: FrankaHand,
        run: Callable[[Callable[[], None], bool], None],
        recover: Callable[[], None],
    ) -> None:
        """``run`` runs an action under the simulation's lock; ``recover`` ends a reflex."""
        self._node, self._hand, self._run, self._recover = node, hand, run, recover
        folder = profile.gripper_backend.topic.rstrip("/")
        self._under_way: tuple[ServerGoalHandle, Future] | None = None
        grasp, move, homing = (
            interface(f"{PACKAGE}/action/{name}", WHAT) for name in ("Grasp", "Move", "Homing")
        )
        command = interface("control_msgs/action/GripperCommand", WHAT)
        self._servers = [
            self._serve(move, f"{folder}/move", lambda g: Goal("move", g.width, g.speed)),
            self._serve(
                grasp,
                f"{folder}/grasp",
                lambda g: Goal("grasp", g.width, g.speed, g.epsilon.inner, g.epsilon.outer),
            ),
            self._serve(homing, f"{folder}/homing", lambda g: Goal("homing", 0.0, SPEED_M_S)),
            self._serve(command, f"{folder}/gripper_action", self._gripper_goal, self._gripper_result),
        ]
        recovery = interface(f"{PACKAGE}/action/ErrorRecovery", WHAT)
        name = profile.arm_backend.recovery_action or "action_server/error_recovery"
        self._servers.append(ActionServer(node, recovery, name, partial(self._recovered, recovery)))
        node.create_service(Trigger, f"{folder}/stop", self._stop)
        for service, kind in PARAMETERS.items():
            request = interface(f"{PACKAGE}/srv/{kind}", WHAT)
            node.create_service(request, f"service_server/{service}", self._set)
        joint = profile.gripper.joint
        self._fingers = [joint, joint[:-1] + "2"]
        self._states = node.create_publisher(JointState, f"{folder}/joint_states", qos.STREAM_OUT)
        node.create_timer(LOOK_S, self._look)

    def _serve(
        self,
        kind: Any,
        name: str,
        goal_of: Callable[[Any], Goal],
        result_of: Callable[[Any, Ending], Any] | None = None,
    ) -> ActionServer:
        async def execute(handle: ServerGoalHandle) -> Any:
            self._end(Ending(False, ABORTED))
            ended = Future(executor=self._node.executor)
            self._under_way = (handle, ended)
            self._run(lambda: self._hand.begin(goal_of(handle.request)), False)
            ending = await ended
            if handle.is_cancel_requested:
                handle.canceled()
            elif ending.success:
                handle.succeed()
            else:
                handle.abort()
            if result_of is not None:
                return result_of(kind, ending)
            return kind.Result(success=ending.success, error=ending.error)

        return ActionServer(
            self._node, kind, name, execute, cancel_callback=lambda handle: CancelResponse.ACCEPT
        )

    def _gripper_goal(self, request: Any) -> Goal:
        """Move to open, grasp to close, as the server decides by the width now."""
        width_m = 2.0 * request.command.position
        wider = width_m >= self._hand.width_m
        return Goal("move" if wider else "grasp", width_m, SPEED_M_S, EPSILON_M, EPSILON_M)

    def _gripper_result(self, kind: Any, ending: Ending) -> Any:
        """Return its result: the position is the whole width, although the goal's is half of it."""
        return kind.Result(position=self._hand.width_m, reached_goal=ending.success)

    def _look(self) -> None:
        """End the goal under way if the hand has, and report the fingers."""
        if self._under_way is not None and self._under_way[0].is_cancel_requested:
            self._run(self._hand.stop, False)
        if self._hand.ending is not None:
            self._end(self._hand.ending)
        message = JointState(name=self._fingers, position=[self._hand.width_m / 2.0] * 2)
        message.velocity, message.effort = [0.0, 0.0], [0.0, 0.0]
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._states.publish(message)

    def _end(self, ending: Ending) -> None:
        if self._under_way is not None:
            (_, ended), self._under_way = self._under_way, None
            ended.set_result(ending)

    def _stop(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._run(self._hand.stop, False)
        response.success = True
        return response

    def _recovered(self, kind: Any, handle: ServerGoalHandle) -> Any:
        self._run(self._recover, False)
        handle.succeed()
        return kind.Result()

    @staticmethod
    def _set(_request: Any, response: Any) -> Any:
        """Accept a parameter: the simulated arm has no such stiffness, frame, load or threshold."""
        response.success = True
        return response

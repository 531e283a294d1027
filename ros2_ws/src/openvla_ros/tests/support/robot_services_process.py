"""A program of a lab's own beside the simulated robot: calls what the robot's software serves, and prints it.

The first argument says which: ``xs_sdk`` or ``franka_ros2``. Each line is a JSON object; it ends by itself.
"""

import json
import sys
import time

import rclpy
from rclpy.action import ActionClient
from sensor_msgs.msg import JointState

WAIT_S = 60.0


class Lab:
    def __init__(self) -> None:
        self.node = rclpy.create_node("lab")
        self.joints: dict[str, float] = {}
        self.node.create_subscription(JointState, "/joint_states", self.heard, 10)

    def heard(self, message) -> None:
        self.joints = dict(zip(message.name, message.position, strict=True))

    def until(self, done, seconds=WAIT_S) -> bool:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.05)
        return done()

    def spin(self, seconds) -> None:
        self.until(lambda: False, seconds)

    def call(self, kind, service, /, **request):
        client = self.node.create_client(kind, service)
        assert self.until(client.service_is_ready), f"no service {service}"
        future = client.call_async(kind.Request(**request))
        assert self.until(future.done), f"{service} does not answer"
        return future.result()

    def goal(self, kind, action, /, **goal):
        client = ActionClient(self.node, kind, action)
        assert self.until(client.server_is_ready), f"no action {action}"
        sent = client.send_goal_async(kind.Goal(**goal))
        assert self.until(sent.done)
        return sent.result()

    def result(self, handle):
        future = handle.get_result_async()
        assert self.until(future.done)
        return future.result()


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def xs_sdk(lab) -> None:
    from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
    from interbotix_xs_msgs.srv import OperatingModes, RegisterValues, RobotInfo, TorqueEnable

    space, arm = "/wx250s", {"cmd_type": "group", "name": "arm"}
    assert lab.until(lambda: lab.joints)

    def info(**of):
        got = lab.call(RobotInfo, f"{space}/get_robot_info", **of)
        return {
            "mode": got.mode, "profile": got.profile_type, "joints": list(got.joint_names),
            "names": list(got.name), "indices": list(got.joint_state_indices), "count": got.num_joints,
        }  # fmt: skip

    say(
        arm=info(**arm),
        gripper=info(cmd_type="single", name="gripper"),
        all=info(cmd_type="group", name="all"),
    )
    say(refused=info(cmd_type="group", name="leg"))
    modes = {"mode": "position", "profile_type": "time", "profile_velocity": 500, "profile_acceleration": 0}
    lab.call(OperatingModes, f"{space}/set_operating_modes", **arm, **modes)
    values = lab.call(RegisterValues, f"{space}/get_motor_registers", **arm, reg="Profile_Velocity").values
    say(velocity=list(values), after=info(**arm)["profile"])

    group = lab.node.create_publisher(JointGroupCommand, f"{space}/commands/joint_group", 10)
    single = lab.node.create_publisher(JointSingleCommand, f"{space}/commands/joint_single", 10)
    assert lab.until(lambda: group.get_subscription_count() and single.get_subscription_count())
    names = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
    start = [lab.joints[name] for name in names]
    goal = [start[0] + 0.3, *start[1:]]
    group.publish(JointGroupCommand(name="arm", cmd=goal))
    arrived = lab.until(lambda: abs(lab.joints["waist"] - goal[0]) < 0.02, 20)
    group.publish(JointGroupCommand(name="arm", cmd=goal[:5]))  # of the wrong size: nothing happens
    lab.spin(0.5)
    say(arrived=arrived, waist=lab.joints["waist"] - start[0])
    opened = lab.joints["left_finger"]
    single.publish(JointSingleCommand(name="gripper", cmd=-200.0))
    say(closed=lab.until(lambda: lab.joints["left_finger"] < opened - 0.01, 20))
    single.publish(JointSingleCommand(name="gripper", cmd=0.0))
    lab.call(TorqueEnable, f"{space}/torque_enable", **arm, enable=False)
    values = lab.call(RegisterValues, f"{space}/get_motor_registers", **arm, reg="Torque_Enable").values
    say(torque=list(values))


def franka_ros2(lab) -> None:
    from control_msgs.action import GripperCommand
    from control_msgs.msg import GripperCommand as Command
    from franka_msgs.action import ErrorRecovery, Grasp, Homing, Move
    from franka_msgs.srv import SetFullCollisionBehavior, SetLoad
    from std_srvs.srv import Trigger

    hand = "/franka_gripper"
    fingers: list = []
    lab.node.create_subscription(JointState, f"{hand}/joint_states", fingers.append, 10)
    done = lab.result(lab.goal(Move, f"{hand}/move", width=0.03, speed=0.1))
    lab.spin(0.1)
    say(moved=[done.status, done.result.success], fingers=[fingers[-1].name, list(fingers[-1].position)])
    done = lab.result(lab.goal(Move, f"{hand}/move", width=0.3, speed=0.1))
    say(too_wide=[done.status, done.result.success, done.result.error])
    done = lab.result(lab.goal(Homing, f"{hand}/homing"))
    say(homed=[done.status, done.result.success])
    first = lab.goal(Grasp, f"{hand}/grasp", width=0.0, speed=0.02, force=20.0)
    lab.spin(0.2)
    second = lab.goal(Move, f"{hand}/move", width=0.08, speed=0.1)
    said = lab.result(first)
    say(preempted=[said.status, said.result.success, said.result.error], then=lab.result(second).status)
    first = lab.goal(Move, f"{hand}/move", width=0.0, speed=0.02)
    lab.spin(0.2)
    canceled = first.cancel_goal_async()
    assert lab.until(canceled.done)
    say(canceled=lab.result(first).status)
    done = lab.result(lab.goal(GripperCommand, f"{hand}/gripper_action", command=Command(position=0.02)))
    say(command=[done.status, done.result.position])
    first = lab.goal(Move, f"{hand}/move", width=0.08, speed=0.01)
    lab.spin(0.1)
    stopped = lab.call(Trigger, f"{hand}/stop").success
    say(stopped=stopped, status=lab.result(first).status)
    say(
        load=lab.call(SetLoad, "/service_server/set_load", mass=0.5).success,
        behaviour=lab.call(SetFullCollisionBehavior, "/service_server/set_full_collision_behavior").success,
    )
    lab.call(Trigger, "/simulation/reflex")
    say(recovered=lab.result(lab.goal(ErrorRecovery, "/action_server/error_recovery")).status)


def main() -> None:
    rclpy.init()
    lab = Lab()
    {"xs_sdk": xs_sdk, "franka_ros2": franka_ros2}[sys.argv[1]](lab)
    lab.node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()

"""The robot's side of every back end: subscribes and serves what drivers do, prints what it got.

One process for all of them; each event is a JSON line with the topic or action it came by.
"""

import json
import sys

import rclpy
from control_msgs.action import GripperCommand, ParallelGripperCommand
from franka_msgs.action import ErrorRecovery, Grasp, Move
from geometry_msgs.msg import PoseStamped, TwistStamped
from interbotix_xs_msgs.msg import JointGroupCommand, JointSingleCommand
from interbotix_xs_msgs.srv import RegisterValues, RobotInfo
from moveit_msgs.srv import ServoCommandType
from rclpy.action import ActionServer, GoalResponse
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def seconds(stamp) -> float:
    return stamp.sec + stamp.nanosec * 1e-9


def on_trajectory(topic):
    def callback(message):
        say(
            topic=topic,
            stamp=seconds(message.header.stamp),
            names=message.joint_names,
            times=[seconds(p.time_from_start) for p in message.points],
            positions=[list(p.positions) for p in message.points],
            velocities=[list(p.velocities) for p in message.points],
        )

    return callback


def on_pose(message):
    p, q = message.pose.position, message.pose.orientation
    frame = message.header.frame_id
    say(topic="target_pose", frame=frame, position=[p.x, p.y, p.z], quaternion=[q.x, q.y, q.z, q.w])


def on_twist(topic):
    def callback(message):
        v, w = message.twist.linear, message.twist.angular
        say(topic=topic, frame=message.header.frame_id, twist=[v.x, v.y, v.z, w.x, w.y, w.z])

    return callback


def subscriptions(node) -> None:
    qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    for type_, topic, callback in (
        (JointTrajectory, "/arm_controller/joint_trajectory", on_trajectory("arm")),
        (JointTrajectory, "/gripper_controller/joint_trajectory", on_trajectory("gripper")),
        (JointTrajectory, "/other/commands", on_trajectory("other")),
        (JointTrajectory, "/franky/setpoints", on_trajectory("franky")),
        (Float64MultiArray, "/forward/commands", lambda m: say(topic="forward", data=list(m.data))),
        (PoseStamped, "/target_pose", on_pose),
        (TwistStamped, "/humble_servo/delta_twist_cmds", on_twist("humble_servo")),
        (TwistStamped, "/jazzy_servo/delta_twist_cmds", on_twist("jazzy_servo")),
    ):
        node.create_subscription(type_, topic, callback, qos)


JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
RIGHT = {"joints": JOINTS, "mode": "position", "profile": "velocity"}
# How xs_sdk has set up the arm's motors, by the namespace of the robot.
XS_SDK = {
    "wx250s": RIGHT,
    "default": RIGHT | {"profile": "time", "Profile_Velocity": 2000},  # interbotix_xsarm_control's modes.yaml
    "quick": RIGHT | {"profile": "time", "Profile_Velocity": 100},
    "slow": RIGHT | {"Profile_Velocity": 90},
    "lazy": RIGHT | {"Profile_Acceleration": 10},
    "limp": RIGHT | {"Torque_Enable": 0},
    "turned": RIGHT | {"joints": JOINTS[::-1]},
    "pressing": RIGHT | {"mode": "pwm", "gripper_mode": "position"},
    "nobody": RIGHT | {"joints": []},
    "sim": RIGHT | {"told": False},  # xs_sdk_sim tells no Torque_Enable
}


def xs_sdk(node, space, motors) -> None:
    """Subscribe and answer as one xs_sdk; a request that is refused is answered with nothing."""
    topic = f"/{space}/commands"
    node.create_subscription(
        JointGroupCommand,
        f"{topic}/joint_group",
        lambda m: say(topic="group", name=m.name, cmd=list(m.cmd)),
        10,
    )
    node.create_subscription(
        JointSingleCommand, f"{topic}/joint_single", lambda m: say(topic="single", name=m.name, cmd=m.cmd), 10
    )

    def info(request, response):
        if request.cmd_type == "group":
            response.joint_names, response.mode = motors["joints"], motors["mode"]
        else:
            response.joint_names, response.mode = ["left_finger"], motors.get("gripper_mode", "pwm")
        response.profile_type = motors["profile"]
        return response

    def registers(request, response):
        if motors.get("told", True):
            value = motors.get(request.reg, 1 if request.reg == "Torque_Enable" else 0)
            response.values = [value] * (len(motors["joints"]) if request.cmd_type == "group" else 1)
        return response

    node.create_service(RobotInfo, f"/{space}/get_robot_info", info)
    node.create_service(RegisterValues, f"/{space}/get_motor_registers", registers)


def servo_services(node) -> None:
    refusals = {"left": 1}

    def start(request, response):
        response.success = refusals["left"] == 0
        response.message = "" if response.success else "still starting"
        refusals["left"] = 0
        say(service="start_servo", success=response.success)
        return response

    def switch(request, response):
        response.success = request.command_type == ServoCommandType.Request.TWIST
        say(service="switch_command_type", command_type=request.command_type)
        return response

    def pause(request, response):
        response.success = True
        say(service="pause_servo", data=request.data)
        return response

    node.create_service(Trigger, "/humble_servo/start_servo", start)
    node.create_service(ServoCommandType, "/jazzy_servo/switch_command_type", switch)
    node.create_service(SetBool, "/jazzy_servo/pause_servo", pause)


def action_servers(node) -> list[ActionServer]:
    def serve(type_, name, describe, result=None, refuse=lambda goal: False):
        def accept(goal):
            return GoalResponse.REJECT if refuse(goal) else GoalResponse.ACCEPT

        def execute(handle):
            say(action=name, **describe(handle.request))
            handle.succeed()
            return (result or (lambda goal: type_.Result()))(handle.request)

        return ActionServer(node, type_, name, execute, goal_callback=accept)

    def grasp_result(goal):
        return Grasp.Result(success=goal.force < 100, error="" if goal.force < 100 else "too much force")

    return [
        serve(
            GripperCommand,
            "/old_gripper/gripper_cmd",
            lambda goal: {"position": goal.command.position, "effort": goal.command.max_effort},
        ),
        serve(
            ParallelGripperCommand,
            "/new_gripper/gripper_cmd",
            lambda goal: {
                "names": list(goal.command.name),
                "position": list(goal.command.position),
                "effort": list(goal.command.effort),
            },
        ),
        serve(GripperCommand, "/refusing_gripper/gripper_cmd", lambda goal: {}, refuse=lambda goal: True),
        serve(
            Grasp,
            "/franka_gripper/grasp",
            lambda goal: {
                "width": goal.width,
                "speed": goal.speed,
                "force": goal.force,
                "epsilon": [goal.epsilon.inner, goal.epsilon.outer],
            },
            grasp_result,
        ),
        serve(
            Move,
            "/franka_gripper/move",
            lambda goal: {"width": goal.width, "speed": goal.speed},
            lambda goal: Move.Result(success=True),
        ),
        serve(ErrorRecovery, "/action_server/error_recovery", lambda goal: {}),
    ]


def main() -> None:
    assert not remove_ros_args(sys.argv)[1:]
    rclpy.init()
    node = rclpy.create_node("stand_in_robot")
    subscriptions(node)
    for space, motors in XS_SDK.items():
        xs_sdk(node, space, motors)
    servo_services(node)
    servers = action_servers(node)
    say(ready=True)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        for server in servers:
            server.destroy()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()

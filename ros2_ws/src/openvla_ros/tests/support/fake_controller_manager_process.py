"""ros2_control's side as far as it is asked: a manager that lists one controller, and that one's topics.

``{"state": ...}`` on stdin is the controller's state from then on; null lists nothing.
"""

import json
import queue
import sys
import threading

import rclpy
from controller_manager_msgs.msg import ControllerState
from controller_manager_msgs.srv import ListControllers
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory


def main() -> None:
    rclpy.init()
    manager = rclpy.create_node("controller_manager")
    controller = rclpy.create_node("arm_controller")
    listed = ["inactive"]

    def answer(_request, response):
        if listed[0] is not None:
            response.controller = [
                ControllerState(name="joint_state_broadcaster", state="active"),
                ControllerState(
                    name="arm_controller", type="crisp_controllers/CartesianController", state=listed[0]
                ),
            ]
        return response

    manager.create_service(ListControllers, "controller_manager/list_controllers", answer)
    # A controller subscribes from its configuration on, whatever its state.
    controller.create_subscription(JointTrajectory, "arm_controller/joint_trajectory", lambda m: None, 10)
    controller.create_subscription(Float64MultiArray, "arm_controller/commands", lambda m: None, 10)
    controller.create_subscription(PoseStamped, "target_pose", lambda m: None, 10)
    executor = SingleThreadedExecutor()
    for node in (manager, controller):
        executor.add_node(node)
    lines: queue.Queue = queue.Queue()
    threading.Thread(target=lambda: [lines.put(json.loads(line)) for line in sys.stdin], daemon=True).start()
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    while True:
        executor.spin_once(timeout_sec=0.02)
        if not lines.empty():
            request = lines.get()
            if "quit" in request:
                break
            listed[0] = request["state"]


if __name__ == "__main__":
    main()

"""Poses of Franka arms and a WidowX by other libraries; runs in their environment, without this project.

Reads {robots: [{urdf, base, tool, flange, joints, q (N, J), kind}]} as JSON; prints for each robot {library:
{frame: poses (N, 4, 4)}}, in the base link's frame. ``kind`` is fr3, panda or another word. Of libfranka's
model, through franky, the FR3 that franky-sim serves is asked.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import frankik
import franky
import mink
import mujoco
import numpy as np
import pinocchio as pin

ADDRESS = "127.0.68.1"
CONNECT_S = 60.0


def by_pinocchio(robot):
    """Return the poses of flange and tool; each joint by its name."""
    model = pin.buildModelFromUrdf(robot["urdf"])
    data = model.createData()
    at = {name: model.getFrameId(robot[name], pin.FrameType.BODY) for name in ("base", "flange", "tool")}
    indices = [model.joints[model.getJointId(name)].idx_q for name in robot["joints"]]
    poses = {"flange": [], "tool": []}
    for row in robot["q"]:
        q = pin.neutral(model)
        q[indices] = row
        pin.forwardKinematics(model, data, q)
        pin.updateFramePlacements(model, data)
        for name, found in poses.items():
            found.append(data.oMf[at["base"]].actInv(data.oMf[at[name]]).homogeneous.tolist())
    return poses


def by_mink(robot):
    """Return mink's; MuJoCo drops links behind fixed joints unless it is told not to, and needs no shapes."""
    root = ElementTree.parse(robot["urdf"]).getroot()
    for link in root.findall("link"):
        for part in (*link.findall("visual"), *link.findall("collision"), *link.findall("inertial")):
            link.remove(part)
    for part in (*root.findall("transmission"), *root.findall("gazebo")):
        root.remove(part)
    settings = {"fusestatic": "false", "boundmass": "1", "boundinertia": "1", "angle": "radian"}
    ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler", settings)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    configuration = mink.Configuration(model)
    indices = [model.joint(name).qposadr[0] for name in robot["joints"]]
    poses = {"flange": [], "tool": []}
    names = {mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_BODY, i) for i in range(model.nbody)}
    for row in robot["q"]:
        q = np.zeros(model.nq)
        q[indices] = row
        configuration.update(q)
        base = np.eye(4)
        if robot["base"] in names:
            base = configuration.get_transform_frame_to_world(robot["base"], "body").as_matrix()
        for name, found in poses.items():
            pose = configuration.get_transform_frame_to_world(robot[name], "body").as_matrix()
            found.append((np.linalg.inv(base) @ pose).tolist())
    return poses


def by_frankik(robot):
    """Return frankik's tool: its forward kinematics end at the hand's TCP, not at the flange."""
    kinds = {"fr3": frankik.RobotType.FR3, "panda": frankik.RobotType.PANDA}
    kinematics = frankik.FrankaKinematics(robot_type=kinds[robot["kind"]])
    return {"tool": [np.array(kinematics.forward(np.array(row))).tolist() for row in robot["q"]]}


def by_libfranka(robot, arm):
    """Return libfranka's; F_T_EE is what the arm says its hand is."""
    to_hand = franky.Affine(np.array(arm.state.F_T_EE.matrix))
    one = franky.Affine(np.eye(4))
    model, frame = arm.model, franky.Frame
    found = {"flange": [], "tool": []}
    for row in robot["q"]:
        q = np.array(row, dtype=float)
        for name, at in (("flange", frame.Flange), ("tool", frame.EndEffector)):
            found[name].append(np.array(model.pose(at, q, to_hand, one).matrix).tolist())
    return found


def connected():
    """Return the simulated arm; it takes a while to start."""
    deadline_s = time.monotonic() + CONNECT_S
    while True:
        try:
            return franky.Robot(ADDRESS, realtime_config=franky.RealtimeConfig.Ignore)
        except franky.NetworkException:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def main():
    """Print what each library says of each robot."""
    program = Path(sys.executable).with_name("franky-sim")
    command = [str(program), "--simulator", "mujoco", "--hostname", ADDRESS]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as simulator:
        try:
            arm = connected()
            found = []
            for robot in json.load(sys.stdin)["robots"]:
                poses = {"pin": by_pinocchio(robot), "mink": by_mink(robot)}
                if robot["kind"] in ("fr3", "panda"):
                    poses["frankik"] = by_frankik(robot)
                if robot["kind"] == "fr3":
                    poses["libfranka"] = by_libfranka(robot, arm)
                found.append(poses)
        finally:
            simulator.terminate()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Poses and Jacobians of one arm by pinocchio and by MuJoCo; runs in their environment, without our package.

Reads {urdf, base, tool, joints, q (N, J)} as JSON; prints {peer: {poses (N, 4, 4), jacobians (N, 6, J)}} in
the base link's frame, the Jacobians with linear rows first.
"""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree

import mujoco
import numpy as np
import pinocchio as pin


def by_pinocchio(task: dict) -> dict:
    """Return pinocchio's poses and Jacobians; it knows mimic joints by itself."""
    model = pin.buildModelFromUrdf(task["urdf"], mimic=True)
    data = model.createData()
    base, tool = (model.getFrameId(task[end], pin.FrameType.BODY) for end in ("base", "tool"))
    joints = [model.joints[model.getJointId(name)] for name in task["joints"]]
    columns = [joint.idx_v for joint in joints]
    poses, jacobians = [], []
    for positions in task["q"]:
        q = pin.neutral(model)
        for joint, value in zip(joints, positions, strict=True):
            turns = (np.cos(value), np.sin(value))  # a continuous joint's two coordinates
            q[joint.idx_q : joint.idx_q + joint.nq] = turns if joint.nq == 2 else value
        pin.computeJointJacobians(model, data, q)
        pin.updateFramePlacements(model, data)
        full = pin.getFrameJacobian(model, data, tool, pin.LOCAL_WORLD_ALIGNED)[:, columns]
        stands = data.oMf[base]
        poses.append((stands.actInv(data.oMf[tool])).homogeneous.tolist())
        jacobians.append(turned(stands.rotation, full).tolist())
    return {"poses": poses, "jacobians": jacobians}


def by_mujoco(task: dict) -> dict:
    """Return MuJoCo's; it drops mimics, so that the followers are moved here."""
    root = ElementTree.parse(task["urdf"]).getroot()
    for link in root.findall("link"):
        for part in (*link.findall("visual"), *link.findall("collision"), *link.findall("inertial")):
            link.remove(part)
    for part in (*root.findall("transmission"), *root.findall("gazebo")):
        root.remove(part)
    settings = {"fusestatic": "false", "boundmass": "1", "boundinertia": "1", "angle": "radian"}
    ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler", settings)
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    data = mujoco.MjData(model)
    followers = []
    for joint in root.findall("joint"):
        mimic = joint.find("mimic")
        if mimic is not None and mimic.get("joint") in task["joints"]:
            numbers = float(mimic.get("multiplier", 1)), float(mimic.get("offset", 0))
            followers.append((joint.get("name"), mimic.get("joint"), *numbers))
    poses, jacobians = [], []
    for positions in task["q"]:
        at = dict(zip(task["joints"], positions, strict=True))
        at |= {name: factor * at[leader] + offset for name, leader, factor, offset in followers}
        data.qpos[:] = 0.0
        for name, value in at.items():
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_forward(model, data)
        base, tool = pose_of(model, data, task["base"]), pose_of(model, data, task["tool"])
        linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacBody(model, data, linear, angular, model.body(task["tool"]).id)
        full = np.concatenate([linear, angular])
        column = {name: full[:, model.joint(name).dofadr[0]] for name in at}
        for name, leader, factor, _ in followers:
            column[leader] = column[leader] + factor * column[name]
        poses.append((np.linalg.inv(base) @ tool).tolist())
        jacobian = np.stack([column[name] for name in task["joints"]], axis=1)
        jacobians.append(turned(base[:3, :3], jacobian).tolist())
    return {"poses": poses, "jacobians": jacobians}


def pose_of(model: mujoco.MjModel, data: mujoco.MjData, link: str) -> np.ndarray:
    """Return a link's pose in the world; the root link is MuJoCo's world itself."""
    pose = np.eye(4)
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, link)
    if body >= 0:
        pose[:3, 3], pose[:3, :3] = data.xpos[body], data.xmat[body].reshape(3, 3)
    return pose


def turned(rotation: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """Return ``jacobian`` (6, J) seen from a frame that stands at ``rotation``."""
    return np.concatenate([rotation.T @ jacobian[:3], rotation.T @ jacobian[3:]])


if __name__ == "__main__":
    task = json.load(sys.stdin)
    json.dump({"pinocchio": by_pinocchio(task), "MuJoCo": by_mujoco(task)}, sys.stdout)

"""Time and accuracy of one inverse-kinematics step, beside peers on the same task.

Peers: a plain damped least-squares step on MuJoCo's kinematics and ``mj_jacSite``, and the same on
pinocchio if it is installed (``pip install pin``, in a separate environment). Every solver follows the
same tool path through the workspace, one step per tick. Calls are interleaved and timed by process time.

    python benchmarks/bench_ik.py [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable

import numpy as np

from openvla_ros.profile import RobotProfile, load_profile
from openvla_ros.robot.kinematics.chain import KinematicChain
from openvla_ros.robot.kinematics.inverse_kinematics import InverseKinematics, rotation_error
from openvla_ros.robot.kinematics.urdf import find_urdf

LIMIT_MS = 0.2
PERIOD_S = 0.01
DAMPING = 0.01  # of the peers: the usual constant
Step = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ours(profile: RobotProfile, chain: KinematicChain) -> Step:
    limits = profile.limits
    ik = InverseKinematics(
        chain, limits.joint_lower, limits.joint_upper, limits.joint_velocity, profile.arm.neutral
    )
    return lambda q, target: ik.step(q, target, PERIOD_S).q


def plain_step(q, error, jacobian, profile: RobotProfile) -> np.ndarray:
    limits = profile.limits
    change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + DAMPING**2 * np.eye(6), error)
    bound = np.array(limits.joint_velocity) * PERIOD_S
    return np.clip(q + np.clip(change, -bound, bound), limits.joint_lower, limits.joint_upper)


def mujoco_peer(profile: RobotProfile) -> Step:
    import mujoco

    text = find_urdf(profile.arm.urdf).read_text()
    tag = '<mujoco><compiler fusestatic="false"/></mujoco></robot>'
    model = mujoco.MjModel.from_xml_string(text.replace("</robot>", tag))
    data = mujoco.MjData(model)
    body = model.body(profile.arm.tool_link).id
    at = [model.joint(name).qposadr[0] for name in profile.arm.joints]
    columns = [model.joint(name).dofadr[0] for name in profile.arm.joints]
    linear, angular = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def step(q: np.ndarray, target: np.ndarray) -> np.ndarray:
        data.qpos[at] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacBody(model, data, linear, angular, body)
        rotation = data.xmat[body].reshape(3, 3)
        error = np.concatenate([target[:3, 3] - data.xpos[body], rotation_error(target[:3, :3], rotation)])
        return plain_step(q, error, np.vstack([linear, angular])[:, columns], profile)

    return step


def pinocchio_peer(profile: RobotProfile) -> Step:
    import pinocchio as pin

    full = pin.buildModelFromUrdf(str(find_urdf(profile.arm.urdf)))
    others = [full.getJointId(n) for n in full.names[1:] if n not in profile.arm.joints]
    model = pin.buildReducedModel(full, others, pin.neutral(full))
    data, frame = model.createData(), model.getFrameId(profile.arm.tool_link)

    def step(q: np.ndarray, target: np.ndarray) -> np.ndarray:
        jacobian = pin.computeFrameJacobian(model, data, q, frame, pin.LOCAL_WORLD_ALIGNED)
        pose = pin.updateFramePlacement(model, data, frame)
        error = np.concatenate([target[:3, 3] - pose.translation, pin.log3(target[:3, :3] @ pose.rotation.T)])
        return plain_step(q, error, jacobian, profile)

    return step


def path(profile: RobotProfile, chain: KinematicChain, count: int) -> np.ndarray:
    """Return tool poses (count, 4, 4) of smooth joint motion around the neutral pose."""
    t = np.arange(count)[:, None] * PERIOD_S
    rng = np.random.default_rng(0)
    phase, rate = rng.uniform(0, 2 * np.pi, len(chain.joints)), rng.uniform(0.1, 0.3, len(chain.joints))
    q = np.array(profile.arm.neutral) + 0.3 * (np.sin(2 * np.pi * rate * t + phase) - np.sin(phase))
    limits = profile.limits
    return chain.frames(np.clip(q, limits.joint_lower, limits.joint_upper))[:, -1]


def compare(name: str, count: int) -> list[dict]:
    profile = load_profile(name)
    chain = KinematicChain.from_profile(profile.arm)
    solvers = {"ours": ours(profile, chain), "mujoco, plain": mujoco_peer(profile)}
    if importlib.util.find_spec("pinocchio"):
        solvers["pinocchio, plain"] = pinocchio_peer(profile)
    q = {solver: np.array(profile.arm.neutral) for solver in solvers}
    seconds: dict[str, list[float]] = {solver: [] for solver in solvers}
    error: dict[str, list[float]] = {solver: [] for solver in solvers}
    for target in path(profile, chain, count):
        for solver, step in solvers.items():
            began = time.process_time_ns()
            q[solver] = step(q[solver], target)
            seconds[solver].append((time.process_time_ns() - began) * 1e-9)
            reached = chain.frames(q[solver])[-1]
            error[solver].append(float(np.linalg.norm(reached[:3, 3] - target[:3, 3])))
    return [
        {
            "robot": name,
            "solver": solver,
            "median_ms": round(1e3 * float(np.median(seconds[solver])), 4),
            "p99_ms": round(1e3 * float(np.percentile(seconds[solver], 99)), 4),
            "p99_error_mm": round(1e3 * float(np.percentile(error[solver], 99)), 3),
        }
        for solver in solvers
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    count = 500 if parser.parse_args().quick else 5000
    rows = [row for name in ("sim_widowx", "sim_franka") for row in compare(name, count)]
    print(f"{'robot':12} {'solver':18} {'median ms':>10} {'p99 ms':>8} {'p99 error mm':>13}")
    for row in rows:
        print(
            f"{row['robot']:12} {row['solver']:18} {row['median_ms']:10.4f} {row['p99_ms']:8.4f} "
            f"{row['p99_error_mm']:13.3f}"
        )
    mine = max(row["median_ms"] for row in rows if row["solver"] == "ours")
    peer = max(row["median_ms"] for row in rows if row["solver"] == "mujoco, plain")
    result = {
        "benchmark": "ik",
        "rows": rows,
        "limit_ms": LIMIT_MS,
        "within_limit": mine <= LIMIT_MS,
        "ratio_to_mujoco": round(mine / peer, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How fast the simulation is: physics, images, rollouts, and the CPU share of the running node.

Images are rendered by this package's renderers and by ``mujoco.Renderer`` with its default quality, in the
same process on the same scene. Speeds are per CPU second, so other load on the machine matters little.
The node runs in real time with joint states at 100 Hz and images at 10 Hz.

    python benchmarks/bench_simulation.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from openvla_ros.profile import load_profile
from openvla_ros.sim import opengl

ROBOTS = ("sim_widowx", "sim_franka")
SIZES = ((224, 224), (640, 480))
NODE_LIMIT = 0.5  # of one core: the rest of two cores must be enough for the controller and the policy

IMAGES = """
import json, sys, time
import mujoco
from openvla_ros.profile import load_profile
from openvla_ros.sim.renderer import make_renderer
from openvla_ros.sim.mujoco_scene import build_model

kind, width, height, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

def rate(draw):
    draw()
    began, frames = time.process_time(), 0
    while time.process_time() - began < seconds:
        draw()
        frames += 1
    return frames / (time.process_time() - began)

model = build_model(load_profile("sim_widowx"), 3, "plate")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
camera = model.camera("primary").id
result = {}
if kind != "rays":
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    with mujoco.Renderer(model, height, width) as theirs:
        def draw_theirs():
            theirs.update_scene(data, camera)
            theirs.render()
        result["theirs"] = rate(draw_theirs)
ours = make_renderer(model, width, height, kind)
result["ours"] = rate(lambda: ours.render(data, camera, width, height))
ours.close()
print(json.dumps(result))
"""


def measure_images(kind: str, size: tuple[int, int], seconds: float) -> dict[str, float]:
    """Return frames per CPU second: ``ours`` and (not for ray casting) ``theirs``."""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    environment |= {"MUJOCO_GL": "disable" if kind == "rays" else kind, "LP_NUM_THREADS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", IMAGES, kind, *map(str, size), str(seconds)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def measure_physics(robot: str, seconds: float) -> float:
    """Return simulated seconds per CPU second of the physics alone."""
    from openvla_ros.sim.tasks import find_task
    from openvla_ros.sim.world import SimulatedRobot

    world = SimulatedRobot(load_profile(robot), find_task("put"))
    began = time.process_time()
    world.step(seconds)
    return seconds / (time.process_time() - began)


def measure_rollouts(robot: str, episodes: int, images: bool) -> tuple[float, int]:
    """Return simulated seconds per CPU second, controller included, and how many succeeded."""
    from openvla_ros.policy.expert import ScriptedExpert
    from openvla_ros.sim.rollout import rollout
    from openvla_ros.sim.tasks import find_task
    from openvla_ros.sim.world import SimulatedRobot

    with SimulatedRobot(load_profile(robot), find_task("put")) as world:
        expert = ScriptedExpert.for_profile(world.profile, world.scene)
        world.render("primary")
        began, simulated, successes = time.process_time(), 0.0, 0
        for seed in range(episodes):
            world.reset(seed)
            result = rollout(world, expert, images=images)
            simulated += result.seconds
            successes += result.success
        return simulated / (time.process_time() - began), successes


def measure_node(robot: str, seconds: float) -> float:
    """Return the share of one core that the running simulation node takes."""
    from openvla_ros.bringup.dds import dds_environment
    from openvla_ros.bringup.supervisor import child_environment

    environment = child_environment(os.environ, dds_environment(os.environ))
    node = subprocess.Popen(
        [sys.executable, "-m", "openvla_ros.nodes.simulation_node", "--ros-args", "-p", f"robot:={robot}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(8.0)  # start-up: imports, the first image
        before = cpu_seconds(node.pid)
        time.sleep(seconds)
        return (cpu_seconds(node.pid) - before) / seconds
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(20)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that process ``pid`` has used (Linux)."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    result: dict[str, float] = {}
    print(f"{'physics and rollouts':<34}{'x real time':>12}{'success':>10}")
    for robot in ROBOTS:
        speed = measure_physics(robot, 5.0 if quick else 30.0)
        result[f"physics_{robot}"] = speed
        print(f"{'physics, ' + robot:<34}{speed:>12.1f}")
        for images in (False, True):
            episodes = 2 if quick else 20
            speed, successes = measure_rollouts(robot, episodes, images)
            name = f"put, {robot}, {'images' if images else 'blind'}"
            result[f"rollout_{robot}_{'images' if images else 'blind'}"] = speed
            print(f"{name:<34}{speed:>12.1f}{successes:>6}/{episodes}")
    print(f"\n{'frames per CPU second':<34}{'ours':>12}{'mujoco':>10}{'ratio':>8}")
    for kind in (*opengl.GL_KINDS, "rays"):
        for size in SIZES if kind == "rays" or opengl.works_here(kind) else ():
            rates = measure_images(kind, size, 1.0 if quick else 5.0)
            label, theirs = f"{kind}_{size[0]}x{size[1]}", rates.get("theirs")
            result[f"frames_{label}"] = rates["ours"]
            if theirs:
                result[f"frames_ratio_{label}"] = rates["ours"] / theirs
            other = f"{theirs:>10.1f}{rates['ours'] / theirs:>8.2f}" if theirs else ""
            print(f"{label:<34}{rates['ours']:>12.1f}{other}")
    share = measure_node("sim_widowx", 5.0 if quick else 20.0)
    result["node_core_share"] = share
    result["node_core_share_to_limit"] = share / NODE_LIMIT
    print(f"\nthe node in real time takes {share:.2f} of a core; limit {NODE_LIMIT}")
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()

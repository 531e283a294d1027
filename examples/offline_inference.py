"""One image and one instruction in, one action out: the model alone, without a robot or ROS.

.venv/bin/python examples/offline_inference.py [IMAGE "the instruction"]
"""

import sys
from pathlib import Path

import openvla_ros
from openvla_ros import Observation
from openvla_ros.preprocessing.image_file import read_image
from openvla_ros.sim.tasks import find_task
from openvla_ros.sim.world import SimulatedRobot

# The profile defines what an action of this robot means. A policy is always loaded for one robot: if the
# checkpoint was made for another one, loading fails here, not on the arm.
profile = openvla_ros.load_profile("sim_widowx")

# The small model ships with the package. Load the full one in the same way:
#   load_policy("openvla/openvla-7b", robot="widowx", unnorm_key="bridge_orig")
policy = openvla_ros.load_policy("small_base", robot=profile)

if len(sys.argv) == 3:
    # Refuses what PIL would pass on silently changed: 16 bits, several images, one that is stored turned.
    image, instruction = read_image(Path(sys.argv[1])), sys.argv[2]
else:  # what the camera of the simulated robot sees
    with SimulatedRobot(profile, find_task("lift"), seed=1) as robot:
        image, instruction = robot.render("primary"), robot.instruction

# An observation is one moment: images by camera name, (height, width, 3) uint8 RGB, and the instruction.
# The stamp is the image's. The chunk carries it, so the controller knows how old the observation is.
observation = Observation(stamp_ns=1, images={"primary": image}, instruction=instruction)
chunk = policy.infer(observation)

print(f"{policy.description}: {instruction!r}, from an image of {image.shape[1]}x{image.shape[0]}")
space = chunk.space
for i, name in enumerate(space.names):
    # The probability that the model gave to the chosen value; a low one means that it is guessing.
    sure = "" if chunk.probability is None else f"   probability {chunk.probability[0, i]:.2f}"
    unit = "" if space.units[i] == "1" else space.units[i]  # the gripper's number has none
    print(f"{name:>8}: {chunk.actions[0, i]:+.4f} {unit:<3}{sure}")
print(
    f"{len(chunk)} action of {space.width} numbers, one every {space.step_s:g} s, in the {space.frame} frame"
)
policy.close()

"""Make a profile for a new robot from an existing one: write it, load it, check it before anything moves.

.venv/bin/python examples/add_a_robot.py

Here a WidowX 250s gets a wrist camera and tighter limits. On the real robot, run
``openvla check my_widowx.yaml`` next: it compares the profile with what the robot reports.
"""

import tempfile
from pathlib import Path

import numpy as np
import yaml

import openvla_ros
from openvla_ros.errors import ProfileError
from openvla_ros.profile import dump_profile
from openvla_ros.robot.kinematics.chain import KinematicChain

# 1. Start from the profile of the robot that is most like yours, as plain YAML.
values = yaml.safe_load(dump_profile(openvla_ros.load_profile("widowx")))
values["name"] = "my_widowx"
values["description"] = "WidowX 250s on a cart, with a camera at its wrist"
wrist = {**values["cameras"][0], "name": "wrist", "topic": "camera/wrist/image_raw"}
values["cameras"].append({**wrist, "frame_id": "camera_wrist_optical_frame"})
values["limits"]["joint_velocity"] = [1.0] * 6  # rad/s, slower than the vendor's
values["limits"]["workspace_upper"][2] = 0.25  # metres above the base: there is a shelf over the table

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "my_widowx.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    # 2. Load it. Every key, range and length is checked; an error names the file, the key and the value.
    profile = openvla_ros.load_profile(path)
    print(f"{profile.name}: {len(profile.arm.joints)} joints, cameras {[c.name for c in profile.cameras]}")

    values["limits"]["joint_velocity"] = [1.0] * 5
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    try:
        openvla_ros.load_profile(path)
    except ProfileError as error:
        print(f"a mistake is named: {str(error).replace(folder, '...')[:110]}")

# 3. The kinematics come from the URDF. The links and joints that the profile names must form a chain in it.
chain = KinematicChain.from_profile(profile.arm)
limits = profile.limits
for name, low, high, urdf_low, urdf_high in zip(
    profile.arm.joints, limits.joint_lower, limits.joint_upper, chain.lower, chain.upper, strict=True
):
    inside = urdf_low <= low and high <= urdf_high
    print(f"{name:>13}: {low:+.2f} .. {high:+.2f} rad {'within' if inside else 'BEYOND'} the URDF's")

# 4. Where do the named poses put the tool, and is that inside the workspace?
for pose in ("neutral", "home", "park"):
    tool = chain.forward(np.array(getattr(profile.arm, pose))).position
    inside = np.all(tool >= limits.workspace_lower) and np.all(tool <= limits.workspace_upper)
    print(f"{pose:>8}: tool at {np.round(tool, 3)} m, {'in' if inside else 'outside'} the workspace")

# 5. The action space that a policy must have: loading a policy with another one fails.
policy = openvla_ros.load_policy("hold", robot=profile)
print(
    f"actions: {', '.join(policy.space.names)} in the {policy.space.frame} frame, {policy.space.rate_hz:g} Hz"
)

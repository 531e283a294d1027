"""What of a profile is possible, but more often a mistake; nobody refuses it, ``openvla check`` names it."""

from __future__ import annotations

from openvla_ros.profile import RobotProfile

# Key, the most that arms of this kind are usually given, and what a larger value does.
USUAL: tuple[tuple[str, float, str], ...] = (
    ("limits.joint_velocity", 5.0, "the arm may be too fast for a person to react"),
    ("limits.joint_acceleration", 50.0, "the arm may jerk"),
    ("limits.joint_jerk", 10000.0, "the arm may jerk"),
    ("limits.tracking_error_rad", 0.5, "an arm that is blocked goes on pushing"),
    ("limits.workspace_tolerance_m", 0.1, "the tool may leave its box"),
    ("state.max_age_s", 1.0, "the arm moves on for so long after it was last seen"),
    ("control.chunk_max_age_s", 2.0, "the arm acts on what has changed since"),
    ("control.hold_after_s", 2.0, "the arm waits for a policy that is gone"),
    ("control.dead_man_s", 0.5, "the arm moves on after the operator has let go"),
    ("control.reanchor_error_m", 0.2, "the commanded tool point may run far ahead of the arm"),
    ("control.leash_m", 0.1, "the commanded tool point may run far ahead of the arm"),
)
IMAGE_AGE_S = 1.0


def unusual_limits(profile: RobotProfile) -> list[str]:
    """Return a line for each value of ``profile`` that is larger than usual, with what that means."""
    lines = []
    for key, usual, effect in USUAL:
        part, name = key.split(".")
        value = getattr(getattr(profile, part), name)
        largest = max(value) if isinstance(value, tuple) else value
        if largest > usual:
            lines.append(f"{key} is {largest:g}, which is unusual (above {usual:g}): {effect}")
    for camera in profile.cameras:
        if camera.max_age_s > IMAGE_AGE_S:
            lines.append(
                f"max_age_s of camera {camera.name} is {camera.max_age_s:g}, which is unusual (above "
                f"{IMAGE_AGE_S:g}): the policy acts on what has changed since"
            )
    return lines

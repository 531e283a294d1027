"""The safety chain: every check between a received chunk and a commanded joint, with one verdict type.

In this order: the chunk itself (``chunk``: width, space, timing, age, finiteness, bounds), where its
targets and the joints would go (``motion``: workspace, tilt, self-collision, table), and the reported
robot state (``state``: age, tracking, effort, wrench; ``robot_watch`` keeps
the newest reports). Joint rates are limited in
``robot.motion.motion_limiter``. Knows nothing of messages, clocks or motion: values in, a verdict out.
"""

# Clocks of two machines may differ by this much before a stamp counts as coming from the future.
CLOCK_TOLERANCE_S = 0.05

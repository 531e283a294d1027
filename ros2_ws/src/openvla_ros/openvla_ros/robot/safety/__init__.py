"""The safety chain: every check between a received chunk and a commanded joint, with one verdict type.

In this order: what the chunk is (``chunk``: width, space, timing, age, finiteness, bounds), where its
targets and the joints would lead (``motion``: workspace, tilt, self-collision, table), and what the
robot reports of itself (``state``: age, tracking, effort, wrench; ``robot_watch`` keeps the newest
reports). How fast the joints may move is ``robot.motion.motion_limiter``'s. Knows nothing of messages
or clocks: it is given values and answers with a verdict.
"""

# Clocks of two machines may differ by this much before a stamp counts as coming from the future.
CLOCK_TOLERANCE_S = 0.05

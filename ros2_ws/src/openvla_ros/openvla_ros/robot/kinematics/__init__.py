"""The arm's geometry: URDF, chain, inverse kinematics, collisions, and how actions compose."""

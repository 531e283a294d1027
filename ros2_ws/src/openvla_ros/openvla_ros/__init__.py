"""Run OpenVLA on physical robots with ROS 2: see, be told, move; record, learn, and put it back.

The package below this file is layered: the values first (numpy only), then the model, the
policies, the robot side, the simulation, the data, the training, and last ``nodes``, the only
place that imports ROS. Imports point downwards in that list; ``tests/test_imports.py`` holds it.
"""

__version__ = "0.1.0"

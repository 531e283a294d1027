"""The controller's core and its parts: who may move the arm, when, where to and how."""

"""The controller's core and what it is made of: who may move the arm, when, where to and how."""

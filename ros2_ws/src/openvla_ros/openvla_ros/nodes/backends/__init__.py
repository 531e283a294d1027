"""Adapters between the controller and what a robot's own software takes: one small module a kind.

An adapter only converts and publishes; limits, timing and safety were settled before a command
reaches it. Which one is used stands in the robot's profile; ``choice`` holds the one ``match``.
"""

"""Serves a policy to other machines on one port: our own protocol, openpi's and OpenVLA's."""

"""Serves a policy to other machines on one port: our own protocol, openpi's, OpenVLA's and vla-eval's."""

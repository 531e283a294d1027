"""Protocols of policy servers and clients, ours and others': bytes to values and back; no sockets."""

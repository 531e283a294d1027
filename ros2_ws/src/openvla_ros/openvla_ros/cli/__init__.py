"""The program ``openvla``: one verb per command."""

"""The program ``openvla``: one verb a command."""

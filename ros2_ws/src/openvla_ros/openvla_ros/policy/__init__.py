"""Policies: observation in, action chunk out, behind one small protocol."""

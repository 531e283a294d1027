"""What decides: observation in, action chunk out, behind one small protocol."""

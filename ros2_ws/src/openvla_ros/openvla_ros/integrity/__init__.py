"""Files held against what they say of themselves: checksums, sizes, keys, and one border for damage."""

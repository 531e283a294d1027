"""File integrity: checksums, sizes, keys, and one place that turns damage into clear errors."""

"""Which processes a robot needs, and what starts, supervises and connects them."""

"""Real peers beside this package: each is built or installed under build/peers and compared with ours."""

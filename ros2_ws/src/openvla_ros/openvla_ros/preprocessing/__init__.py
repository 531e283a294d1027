"""What training and deployment must share bit for bit: image transform, tokens, statistics, prompt."""

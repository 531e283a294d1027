"""Everything that training and deployment share bit for bit: image transform, tokens, statistics, prompt."""

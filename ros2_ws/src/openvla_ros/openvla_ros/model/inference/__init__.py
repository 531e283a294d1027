"""A loaded checkpoint as something to ask: images and words in, actions or text out."""

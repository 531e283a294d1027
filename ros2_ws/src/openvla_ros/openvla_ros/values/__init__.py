"""The values that pass between the parts: frozen, checked once, numpy only; no files, no robot profile."""

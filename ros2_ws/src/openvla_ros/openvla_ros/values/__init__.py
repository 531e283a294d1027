"""The values passed between the parts: frozen, validated once, numpy only; no files, no robot profile."""

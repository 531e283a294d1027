"""Any dataset on disk: opened, listed, shown, converted."""

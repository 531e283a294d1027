"""Other tools' datasets, one reader and one writer a format; formats never import each other."""

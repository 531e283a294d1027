"""Other tools' dataset formats, one reader and one writer each; formats never import each other."""

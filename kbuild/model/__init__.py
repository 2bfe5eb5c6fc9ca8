"""F1: from a model reference to the fetched model bundle."""

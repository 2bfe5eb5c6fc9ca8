"""F3: findings over a lock, a model and the facts of an image; their formats. Sibling of plan."""

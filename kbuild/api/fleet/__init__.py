"""Many models: built as they are registered, and by the workers of a queue."""

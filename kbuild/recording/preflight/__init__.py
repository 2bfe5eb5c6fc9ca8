"""What would fail a training at its end, told before it begins: all of it at once, each with what to type."""

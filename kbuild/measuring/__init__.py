"""F6: what a built image takes and gives under a load, on one machine, and what is kept of that."""

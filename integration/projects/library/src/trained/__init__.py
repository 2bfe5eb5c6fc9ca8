"""A small project around one library."""

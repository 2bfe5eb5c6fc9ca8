"""What executes a build context."""

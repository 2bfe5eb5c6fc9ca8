"""What the process may use of its machine."""

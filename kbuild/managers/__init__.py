"""What is known of package managers without asking them: names of conda, the order of Debian's versions."""

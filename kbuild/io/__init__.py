"""What catalog.yml files name."""

"""What a slim image is without."""

"""What lies in images, and what differs between two."""

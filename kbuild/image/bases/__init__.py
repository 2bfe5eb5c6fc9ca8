"""Base images: what ``--base`` says, and bases assembled from Debian packages."""

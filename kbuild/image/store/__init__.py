"""Images of this machine: packed, indexed, kept."""

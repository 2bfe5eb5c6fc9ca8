"""Package indexes: what they offer, and locked packages downloaded from them."""

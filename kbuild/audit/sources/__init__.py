"""Where advisories come from."""

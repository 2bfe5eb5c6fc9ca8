"""F2: from an environment spec to a lockfile."""

"""F3: from a lockfile and a model bundle to a build plan and a build context."""

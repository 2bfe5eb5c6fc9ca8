"""SIDE WING: what a project sets for kbuild, of every floor."""

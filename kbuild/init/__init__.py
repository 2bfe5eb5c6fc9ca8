"""F7: the configuration and the jobs that a Kedro project gets, and where this kbuild came from."""

"""The interpreter of this machine as a conda package."""

"""The checks: each gives findings, and what it could not look at."""

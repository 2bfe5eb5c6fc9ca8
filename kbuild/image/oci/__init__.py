"""The OCI formats as pure functions: no Docker here."""

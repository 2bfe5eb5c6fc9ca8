"""Images started on this machine."""

"""F7: from what a user names to an audited subject: lock, model and image gathered, checked, and written back."""

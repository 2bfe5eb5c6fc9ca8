"""From what a user names to an audited subject: lock, model and image gathered, checked, written back."""

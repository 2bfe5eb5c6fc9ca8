"""What people read: the pages of ``kbuild help``."""

"""Base images: what ``--base`` says, brought to exact bytes."""

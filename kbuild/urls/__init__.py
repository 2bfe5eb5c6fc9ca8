"""What urls say besides a place."""

"""What of this machine an image will have too, and what a machine that runs it says of itself."""

"""F8: what the command line and programs ask for alike; prints nothing and ends nobody's process."""

"""F0: the folder of what is kept between builds, addressed by content."""

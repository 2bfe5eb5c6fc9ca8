"""F6: claims about a built image, checked on the image."""

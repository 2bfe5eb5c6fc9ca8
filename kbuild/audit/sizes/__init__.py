"""How large an image is, by layer and by package, and that as a picture."""

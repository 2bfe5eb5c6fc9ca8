"""F7: what clusters and hosts are told, for an image to be served: plain YAML, the image by digest."""

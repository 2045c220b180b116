"""Between processes: what is sent over the channel layer, and whether the layer is there."""

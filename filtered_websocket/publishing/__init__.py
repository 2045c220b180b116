"""Hands what this process publishes to the channel layer: in batches, or at once to Redis."""

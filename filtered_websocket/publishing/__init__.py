"""Queues what this process publishes, and hands it to the channel layer in batches."""

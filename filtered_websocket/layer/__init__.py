"""Messages between processes over the channel layer, and detection of its outages."""

"""One socket: its handshake, and what a filter can do with it."""

"""Threads for what must not run on the event loop: the database, and filters that block."""

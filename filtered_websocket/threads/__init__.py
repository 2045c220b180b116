"""Threads for what must not run on the event loop: database queries and blocking filters."""

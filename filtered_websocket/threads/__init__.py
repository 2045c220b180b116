"""Threads for what must not run on the event loop, and tasks that run on it for long."""

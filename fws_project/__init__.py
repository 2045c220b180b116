"""The runnable example: a chat at ``/`` and rooms at ``/rooms/<name>/``."""

"""Orders to live connections, from anywhere in Django."""

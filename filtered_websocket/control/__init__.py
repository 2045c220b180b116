"""Commands to the connections of all processes, from anywhere in Django."""

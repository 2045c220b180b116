"""Commands from outside to the connections of all processes: control events, and the HTTP APIs."""

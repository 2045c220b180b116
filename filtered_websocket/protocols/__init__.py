"""How the clients of a route speak, which nothing below knows."""

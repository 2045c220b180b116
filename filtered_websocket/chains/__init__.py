"""How an event goes through the filters of one chain."""

"""How an event goes through the filters of one chain, and a group message to its members."""

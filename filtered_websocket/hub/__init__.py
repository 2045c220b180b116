"""One per event loop: who is connected here, in which groups, and with what access."""

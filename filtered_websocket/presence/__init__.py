"""Who is subscribed to a group now, in all processes."""

"""From settings to chains: which filters a route runs, in which order."""

"""Builds chains from settings: which filters a route runs, in which order."""

"""Keeps publications of groups, so that who was away gets what was missed, or is told."""

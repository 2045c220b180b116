"""A module without a filter."""

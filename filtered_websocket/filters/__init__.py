"""Chains (``base``), the pipelines made of them (``pipeline``), and the bundled filters."""

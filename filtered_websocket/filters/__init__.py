"""The chain bases that filters subclass (``base``), and the bundled filters."""

"""System checks: find mistakes in a site's settings before it serves."""

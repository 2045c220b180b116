"""System checks: every mistake of a site, found before it serves."""

"""The live console: what every process does now, shown and acted upon in Django's admin."""

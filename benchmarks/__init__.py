"""Side-by-side measurements of this package and its peers: ``make bench``."""

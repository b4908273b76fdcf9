"""What the numbers of a page say, in plain words composed from these numbers."""

STRONG = 0.3
"""Weight from which an edge is called strong."""

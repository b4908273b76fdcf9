"""What the numbers of a page say, in plain words composed from these numbers."""

"""One page per file: it lays out, and computes nothing."""

"""One question per file. Each has a `run` that returns a `Report`; `interp run NAME` calls it."""

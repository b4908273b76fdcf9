"""The embedded model: its language, training, evaluation and weights."""

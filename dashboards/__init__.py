"""The dashboard: look at heads and ask causal questions, without writing code."""

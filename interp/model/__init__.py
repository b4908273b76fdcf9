"""The hooked GPT-2: its forward pass, its hooks, its cache, and how it is loaded."""

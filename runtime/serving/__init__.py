"""Serving: an edge that splits traffic by share, two slots an endpoint behind it, and the log of what they answered."""

"""Measurements, each with the figure it is held to. `python benchmarks/NAME.py [--quick] [--json FILE]`."""

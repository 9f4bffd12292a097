"""Servers that teal is compared with, each in an environment of its own. Nothing here imports teal."""

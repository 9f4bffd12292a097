"""Torch modules for tables, and the bundle: a trained model as data, never as code."""

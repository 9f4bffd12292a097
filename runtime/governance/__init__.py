"""Governance: what a model must show before it gets traffic."""

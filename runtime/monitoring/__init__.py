"""Monitoring: what live traffic looks like beside the reference, and how good the answers were."""

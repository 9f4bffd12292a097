"""Contracts, versions, profiles: how raw files become a table that models may trust."""

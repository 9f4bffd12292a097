"""Fixtures of the edge's tests, which need no cluster."""

from tests.serving_edge import edge, home, ingress, lonely_edge

__all__ = ["edge", "home", "ingress", "lonely_edge"]

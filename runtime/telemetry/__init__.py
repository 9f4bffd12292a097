"""Telemetry: logs, metric names, latency buckets."""

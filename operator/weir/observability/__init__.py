"""Metric definitions and structured logs of both programs."""

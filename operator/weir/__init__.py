"""Weir holds self-hosted language models at a target utilization and lets what does not fit spill to a frontier API."""

"""Replays traces through the decision code of production and draws the report. I/O at its edge only."""

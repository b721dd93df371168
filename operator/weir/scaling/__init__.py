"""Demand, utilization and how many replicas. Pure: time and load come in as arguments, a decision with its reason goes out."""

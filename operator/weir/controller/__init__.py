"""The operator: watches, a de-duplicating queue, reconcile, the autoscale loop, status."""

"""May this request leave the cluster, should it, and what may it cost. Pure."""

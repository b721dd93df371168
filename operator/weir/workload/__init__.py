"""ModelDeployment to Kubernetes objects: one Service, and one ReplicaSet for each revision. Pure."""

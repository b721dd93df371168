"""ModelDeployment to Kubernetes objects. Pure: takes models, gives manifests."""

"""The main job, whole: a cluster, `helm install`, YAML, a real trace through the gateway, and what became of it."""

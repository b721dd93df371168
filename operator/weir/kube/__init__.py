"""Talks to the Kubernetes API for both programs: client, list-and-watch reflector, Lease election."""

"""Stand-ins to test against: a simulated vLLM server and a frontier API stub, as processes of their own. They never import the gateway."""

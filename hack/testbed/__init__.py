"""What tests of whole programs are made of: an operator, gateways, or all of Weir on a cluster, with engines and clients."""

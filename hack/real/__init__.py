"""The real vLLM on a CPU, with a real small model: installed once into a cache outside the checkout, served on loopback."""

from real.install import Environment, UnavailableError, environment
from real.serve import RealEngine

__all__ = ["Environment", "RealEngine", "UnavailableError", "environment"]

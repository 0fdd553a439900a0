"""Sidecar: a policy server that turns an API into a paid API."""

__version__ = "0.1.0"

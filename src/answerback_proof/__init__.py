"""Proof that the promises hold: simulation, chaos, load, conformance, and the demo."""

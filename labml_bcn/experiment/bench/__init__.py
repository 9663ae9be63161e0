"""Benchmarks of the layers and of a training step."""

"""Benchmarks of the layers and of a training step.

- `naive.py`: the same layers as one would first write them down
- `layers.py`: the layers against their rivals, a command
- `training.py`: a training step with ours and with the naive layers, a command
- `convolutions.py`: what weight standardization adds to a convolution
- `timing.py`, `memory.py`: how time and memory are measured, and recorded
"""

"""Benchmarks of the layers and of a training step.

- `layers.py`: the layers against their rivals, a command
- `training.py`: a training step with our layers and with others, a command
- `record.py`: all that the page "How fast it is" shows, with one command
- `rivals.py`, `networks.py`: who races in the first and in the second
- `naive.py`: the same layers as the formulas say them, step by step
- `convolutions.py`: what weight standardization adds to a convolution
- `timing.py`, `memory.py`: how time and memory are measured, and recorded
"""

r"""
---
title: Experiments
summary: >
  A small experiment that puts the layers to the test: CIFAR-10 in memory,
  a VGG whose block is a parameter, and a training loop to read.
---

# Experiments

A normalization is judged by the training it makes possible. Three short
modules are enough to try that out:

- [`cifar10`](cifar10.py) finds the images and holds them in memory;
- [`vgg`](vgg.py) is the network, with the normalization left open;
- [`train`](train.py) is the training loop and its command line.

They use the layers and torch; the layers know nothing of them. The progress
bar, the cache folder and the download need a few packages more:
`pip install 'labml-bcn[train]'`.
"""

r"""
---
title: Experiments
summary: >
  A small experiment that puts the layers to the test: CIFAR-10 in memory,
  a VGG whose block is a parameter, and a training loop to read.
---

# Experiments

A normalization is judged by the training it makes possible. Three modules
are enough to try that out:

- [`cifar10`](cifar10.py) finds the images and holds them in memory;
- [`vgg`](vgg.py) is the network, with the normalization left open;
- [`train`](train.py) is the training loop.

A run can take days, and what takes days gets interrupted. What makes the
loop one that can be trusted has rooms of its own:

- [`options`](options.py) is its command line;
- [`checkpoint`](run_folder.py) keeps a run in a folder, so that it can be
  killed at any moment;
- [`stop`](signals.py) answers Ctrl-C, and a scheduler that wants its machine
  back;
- [`diagnose`](diagnose.py) finds the layer in which a loss went wrong;
- [`distributed`](ranks.py) lets several processes train one network;
- [`speed`](bench/training.py) measures a step, beside one with the layers in their
  [naive form](../naive.py).

One run proves little. [`study`](study.py) is a grid of them, which
[`recording`](runner.py) records point by point.

They use the layers and torch; the layers know nothing of them. The progress
bar, the cache folder and the download need a few packages more:
`pip install 'labml-bcn[train]'`.
"""

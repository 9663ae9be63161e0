"""A small experiment that puts the layers to the test.

A normalization is judged by the training it makes possible. These three are enough to
try that out, and to read:

- `cifar10` finds the images and holds them in memory;
- `vgg` is the network, with the normalization left open;
- `loop` is the training loop.

`train` is the command. A run can take days, and what takes days gets interrupted. What
makes the loop one that can be trusted has modules of its own:

- `settings` holds each option of the command: default, help and rule;
- `run_config` finds the run that a command means, and compares its settings;
- `run_folder` keeps a run so that it can be killed at any moment, with checkpoints and
  the files that `atomic_files` writes;
- `state` is what a checkpoint holds, and `run_log` what is measured on the way;
- `outcome` says how a run has ended, to people and to programs, and `output` writes
  what is said, to whoever still listens;
- `checksums` knows whether images and records are what they were;
- `signals` answers Ctrl-C, and a scheduler that wants its machine back;
- `diagnose` finds the layer in which a loss became NaN or infinite;
- `ranks` lets several processes train one network, and `machine` checks the device;
- `kills` puts that to the test: it kills runs, and compares their ends.

One run proves little. `study` is a grid of them and its command (with `study_options`),
which `runner` runs, several at once; what came out is in `records`. `bench` measures
layers and training steps, beside their naive form, and `environment` says on what.
`plotting` draws figures for notebooks and pages.

`download`, `stripes` and `optional_packages` help `cifar10`: the archive, images to
draw if there are none, and the packages of the extra `train`: the progress bar, the
cache folder and the download need them (`pip install 'labml-bcn[train]'`).

All of this uses the layers and torch; the layers know nothing of it.
"""

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A short CIFAR-10 run at micro-batch
#
# The [first notebook](1_batch_channel_norm.py) looked at tensors. This one
# trains: the same small network five times, with two images a step, and only
# the normalization changes. Each run takes about a minute on one core.
#
# That is very short, and it is here so that you can try things out, not to
# settle them. What such a run [can and cannot
# show](#what-this-shows-and-what-not) stands at the end, and belongs to the
# result.

# %%
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from labml_bcn.experiment import cifar10, plotting, vgg
from labml_bcn.experiment.train import train

torch.set_num_threads(1)
plotting.use_style()
data = cifar10.load_or_stand_in()
data = replace(
    data,
    test_images=data.test_images[:1000],
    test_labels=data.test_labels[:1000],
)
print("images:", data.source)
print(f"{len(data.train_images):,} to train on")
print(f"{len(data.test_images):,} to test with")

# %% [markdown]
# We test with a thousand images at most, so that a look at them takes a
# second or two.
#
# ## Five variants
#
# The network is the [small VGG](../labml_bcn/experiment/vgg.py): six
# convolutions with 32 to 128 channels, and behind each a norm and a ReLU.
#
# - **BN**, batch norm: its statistics come from the two images of the step.
# - **GN**, group norm: each image by itself.
# - **GN+WS**: the same with
#   [standardized weights](../labml_bcn/weight_standardization.py).
# - **BCN+WS** as it comes: batch-channel norm with its defaults, variance
#   around the batch mean and momentum 0.1.
# - **BCN+WS, r=0.01**: variance around the running mean, as in the paper's
#   formula, and momentum 0.01. Its estimates rest on about a hundred steps
#   instead of ten.

# %%
variants = {
    "BN": {"norm": "bn"},
    "GN": {"norm": "gn"},
    "GN+WS": {"norm": "gn", "ws": True},
    "BCN+WS": {"norm": "bcn", "ws": True},
    "BCN+WS, r=0.01": {
        "norm": "bcn",
        "ws": True,
        "variance_around": "running_mean",
        "momentum": 0.01,
    },
}
models = {
    name: vgg.build("small", **options, seed=0) for name, options in variants.items()
}
for name, model in models.items():
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name:15} {parameters:9,} parameters")

# %% [markdown]
# All start from the same weights. Batch-channel norm has a few parameters
# more than group norm: a scale and a shift a channel from its first half,
# and a pair a group from its second.
#
# ## The runs
#
# The [training loop](../labml_bcn/experiment/loop.py) shows every variant
# the same images in the same order. Two runs go on at a time, each on a core
# of its own; they share nothing but the images, so the results are the same
# as one after the other.


# %%
def run(name):
    return train(
        models[name],
        data,
        batch_size=2,
        images=5000,
        lr=0.005,
        seed=0,
        points=25,
        progress=False,
    )


runs = {}
print("                 train   test")
with ThreadPoolExecutor(2) as pool:
    for name, result in zip(variants, pool.map(run, variants), strict=True):
        runs[name] = result
        last = result.points[-1].accuracy
        print(f"{name:15} {last:6.1%} {result.accuracy:6.1%}", flush=True)

# %% [markdown]
# `train` is the share classified right among the last 200 training images,
# in training mode; `test` that of the test images, in evaluation mode.
#
# ## The loss on the way
#
# Every point is an average over 200 images. The learning rate rises for the
# first third and falls to zero at the end. Every variant sees the same images
# in the same order, so a bend that all lines share comes from the images.

# %% tags=["plot"]
looks = {
    name: plotting.METHODS[name.split(",")[0]].style | {"linewidth": 1.4}
    for name in variants
}
looks["BCN+WS, r=0.01"]["linewidth"] = 3

fig, ax = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
for name, result in runs.items():
    images, loss, _ = zip(*result.points, strict=True)
    ax.plot(images, loss, label=name, **looks[name])
ax.set(xlabel="images seen", ylabel="training loss", xlim=(0, None))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Training loss: {data.source}", fontsize=11)
plotting.show(
    fig,
    "A lower line learns faster. Compare the dashed lines, without weight "
    "standardization, with the solid ones, and the two violet ones with each "
    "other.",
)

# %% [markdown]
# ## Accuracy on the test images
#
# Five looks at the test images on the way, in evaluation mode. An estimate
# that trains with small momentum has a weakness here: its early looks come
# while it still remembers its start.

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
for name, result in runs.items():
    images, accuracy = zip(*result.tests, strict=True)
    percent = [100 * each for each in accuracy]
    ax.plot(images, percent, "o", label=name, **looks[name])
ax.axhline(10, color=plotting.TEXT, linewidth=0.8, linestyle=":")
ax.set(xlabel="images seen", ylabel="test accuracy (%)", ylim=(0, None))
ax.set(xlim=(0, None), xticks=range(0, 5001, 1000))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Test accuracy: {data.source}", fontsize=11)
plotting.show(
    fig,
    "Higher is better, and the dotted line at 10% is guessing. Look at how "
    "early each line leaves it, and at where the lines cross.",
)

# %% [markdown]
# ## The gap between training and evaluation
#
# Batch norm trains with the statistics of two images, and is tested with
# running averages: it is another function then. How far are the two apart?
# Each trained network classifies the same test images twice: in training
# mode, two at a time and without learning from them, and in evaluation mode.


# %%
@torch.no_grad()
def in_training_mode(model):
    """The share of test images right, in training mode, two at a time."""
    model = deepcopy(model).train()
    right = 0
    for images, labels in zip(
        data.test_images.split(2), data.test_labels.split(2), strict=True
    ):
        right += (model(data.standardize(images)).argmax(1) == labels).sum().item()
    return right / len(data.test_labels)


in_training = {name: in_training_mode(model) for name, model in models.items()}
print("                training  evaluation     gap")
for name, result in runs.items():
    gap = result.accuracy - in_training[name]
    print(f"{name:15} {in_training[name]:8.1%} {result.accuracy:11.1%} {gap:+7.1%}")

# %% [markdown]
# Group norm has no gap, for nothing in it depends on the mode. The estimate
# has next to none: its statistics are the same in both, and only move a
# little in training. With batch norm the gap is one of the method. With two
# images it may have either sign; with one, [the recorded
# study](../results.md) shows where it leads.
#
# ## The end
#
# The test images are a sample as well. Had others been drawn, the accuracy
# $p$ over $n$ of them would come out a little different, with a standard
# error of
#
# $$\sqrt{\frac{p (1 - p)}{n}}$$
#
# It is given with each result. It says nothing of the larger uncertainty,
# that of the run itself: another seed gives another network.

# %%
n = len(data.test_images)
error = {
    name: (result.accuracy * (1 - result.accuracy) / n) ** 0.5
    for name, result in runs.items()
}
ranking = sorted(runs, key=lambda name: runs[name].accuracy)
for name in reversed(ranking):
    print(f"{name:15} {runs[name].accuracy:6.1%} ± {error[name]:.1%}")

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 2.5))
for height, name in enumerate(ranking):
    percent = 100 * runs[name].accuracy
    look = {**looks[name], "linestyle": "none", "linewidth": 1.4}
    ax.errorbar(percent, height, xerr=100 * error[name], fmt="o", **look)
    ax.text(percent, height + 0.2, f"{percent:.1f}", ha="center", size=9)
ax.axvline(10, color=plotting.TEXT, linewidth=0.8, linestyle=":")
ax.set(yticks=range(len(ranking)), xlabel="test accuracy (%)", xlim=(0, None))
ax.set(yticklabels=ranking, ylim=(-0.5, len(ranking) - 0.3))
fig.suptitle(f"After 5,000 images: {data.source}", fontsize=11, x=0.4)
plotting.show(
    fig,
    "Test accuracy at the end, the best on top; bars are one standard error "
    "of the test. The dotted line is guessing. Where bars touch, the order "
    "means nothing.",
)

# %% [markdown]
# ## What came out
#
# Said of the numbers above, and only where a difference is more than twice
# the standard error of both tests together. The error of another seed is not
# in it.


# %% tags=["say"]
def compare(one, other, what):
    """A sentence on what changes from one variant to the other."""
    gain = runs[one].accuracy - runs[other].accuracy
    both = (error[one] ** 2 + error[other] ** 2) ** 0.5
    if abs(gain) <= 2 * both:
        return f"{what} made no difference that this test can see ({gain:+.1%})."
    return f"{what} {'gained' if gain > 0 else 'lost'} {abs(gain):.1%}."


first = ranking[-1]
gap = {name: result.accuracy - in_training[name] for name, result in runs.items()}
widest = max(gap, key=lambda name: abs(gap[name]))
plotting.say(
    f"**{first}** came out first with {runs[first].accuracy:.1%}, **{ranking[0]}** last"
    f" with {runs[ranking[0]].accuracy:.1%}.",
    compare("GN+WS", "GN", "Standardizing the weights of group norm"),
    compare("BCN+WS", "GN+WS", "Batch-channel norm with its defaults, beside GN+WS,"),
    compare("BCN+WS, r=0.01", "BCN+WS", "The slower estimate of batch-channel norm"),
    compare("BN", "GN", "Batch norm, beside group norm,"),
    f"Training and evaluation are furthest apart with {widest} ({gap[widest]:+.1%}"
    + (")." if widest == "BN" else f"; with BN {gap['BN']:+.1%})."),
)

# %% [markdown]
# ## What this shows, and what not
#
# It **can** show whether a method learns at all from two images a step, and
# differences that are large in this one setting: a network without
# shortcuts, from scratch, at a learning rate of 0.005.
#
# It **cannot** show more than that, for many reasons:
#
# - **One seed.** Another one can move a result by a few percent. Methods
#   that are closer than that are not told apart here.
# - **A short run.** Thousands of images are a fraction of what training
#   takes. What is ahead early need not be ahead at the end. A momentum of
#   0.01, for one, spends the first hundreds of steps forgetting its start.
# - **One learning rate for all.** It was not tuned for any method.
#   Standardizing a weight changes the size of its gradient, so that the same
#   rate means something else.
# - **A small network and small images.** The papers are about detection,
#   segmentation and ImageNet, with networks many times as deep.
# - **The data.** If the titles say "part of CIFAR-10" or "stand-in", the
#   accuracies do not compare with those of others on CIFAR-10.
#
# To find out more, take more seeds and more images. The same run, longer,
# from a shell:
#
# ```sh
# python -m labml_bcn.experiment.train --norm bcn --ws \
#     --variance-around running_mean --momentum 0.01 \
#     --images 50000 --seed 1
# ```
#
# Or change a variant above, and run the notebook again.

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
# # Fine-tuning with two images a step
#
# A network has been trained with large batches and batch norm. Now it is to
# learn something else, on a machine that holds two images at a time: that is
# how most detectors and segmenters are made. What becomes of its norms?
#
# This notebook trains a small residual network at batch size 64, and then
# fine-tunes copies of it at batch size 2, for other classes, in five ways:
#
# - **BN**: batch norm as it is, measured on two images in training, and on
#   running statistics in evaluation.
# - **BN frozen**: batch norm with the statistics that it came with. It is
#   what most people do.
# - **GN**: fresh group norms in the place of the batch norms.
# - **BCN+WS**: [converted](../labml_bcn/convert.py), the convolutions
#   standardized as if the network had never been trained.
# - **BCN+WS kept**: converted with `pretrained=True`, which keeps what each
#   convolution computes.
#
# Every way gets a learning rate of its own. Afterwards the converted network
# is [baked](../labml_bcn/bake.py), that is, turned into plain `torch.nn`.

# %%
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

from labml_bcn import bake, convert, freeze_statistics, update_statistics
from labml_bcn.experiment import cifar10, plotting
from labml_bcn.experiment.loop import evaluate, shuffled_batches
from labml_bcn.experiment.outcome import RunError
from labml_bcn.experiment.train import train
from labml_bcn.experiment.vgg import groups_for

torch.set_num_threads(1)
plotting.use_style()
data = cifar10.load_or_stand_in()
print("images:", data.source)

# %% [markdown]
# ## Two tasks
#
# Six classes to begin with, and the other four to be learned afterwards.
# Of these the fine-tuning sees a thousand images, once. Eight hundred more
# are there to choose learning rates by. The test is on images that neither
# has seen: the test images, and further training images, because the former
# are few.

# %%
FIRST, SECOND = (0, 1, 2, 3, 4, 8), (5, 6, 7, 9)


def only(classes):
    """The images of some classes, which are counted anew."""

    def part(images, labels):
        places = torch.full((10,), -1)
        places[list(classes)] = torch.arange(len(classes))
        kept = places[labels] >= 0
        return images[kept], places[labels[kept]]

    train_images, train_labels = part(data.train_images, data.train_labels)
    test_images, test_labels = part(data.test_images, data.test_labels)
    return replace(
        data,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )


first, second = only(FIRST), only(SECOND)
images, labels = second.train_images.split(1000), second.train_labels.split(1000)
second = replace(
    second,
    train_images=images[0],
    train_labels=labels[0],
    test_images=torch.cat([second.test_images, images[1][800:], images[2]]),
    test_labels=torch.cat([second.test_labels, labels[1][800:], labels[2]]),
)
choosing = replace(second, test_images=images[1][:800], test_labels=labels[1][:800])

print("first: ", ", ".join(data.classes[k] for k in FIRST))
print("second:", ", ".join(data.classes[k] for k in SECOND))
print(f"{len(first.train_images):,} images to train on first,")
print(f"{len(second.train_images):,} to fine-tune with, {len(second.test_images):,}")
print(f"to test with, {len(choosing.test_images):,} to choose learning rates by")

# %% [markdown]
# ## A network of somebody's
#
# A residual network as it is written everywhere, with nothing of this
# project in it.


# %%
class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False),
                nn.BatchNorm2d(c_out),
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y)


class ResNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, 2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(24)
        self.blocks = nn.Sequential(
            Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2)
        )
        self.head = nn.Linear(96, classes)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.head(x.mean((2, 3)))


torch.manual_seed(0)
trained = ResNet(len(FIRST))
options = {"images": 24_000, "lr": 0.1, "tests": 1, "progress": False}
result = train(trained, first, batch_size=64, **options)
print(f"{result.accuracy:.1%} of the test images right, guessing is one in six")

# %% [markdown]
# ## Five ways to go on
#
# Each starts from a copy with a new last layer, the same in all five. The
# conversion is one call, and its report says what was changed and what was
# not. Thirty-two groups, the default, are many for so few channels, so the
# groups are [a function of the channels](../use.md#which-groups), the same
# for GN and BCN.

# %%
EXAMPLE = torch.randn(1, 3, 32, 32)
NAMES = ("BN", "BN frozen", "GN", "BCN+WS", "BCN+WS kept")


def prepare(name, seed):
    """A copy of the trained network, ready for one of the ways."""
    model = deepcopy(trained)
    torch.manual_seed(seed)
    model.head = nn.Linear(96, len(SECOND))
    if name == "BN frozen":
        freeze_statistics(model)
    elif name == "GN":
        for place, norm in list(model.named_modules()):
            if isinstance(norm, nn.BatchNorm2d):
                channels = norm.num_features
                fresh = nn.GroupNorm(groups_for(channels), channels)
                model.set_submodule(place, fresh)
    elif name.startswith("BCN"):
        convert(model, EXAMPLE, groups=groups_for, pretrained="kept" in name)
    return model


print(convert(deepcopy(trained), EXAMPLE, groups=groups_for, pretrained=True))

# %% [markdown]
# ## A learning rate for each
#
# The same for all would favour one of them. So each is trained with every
# rate of a small grid, and the best one on the images for choosing is taken.
# A choice at the end of the grid is marked: there a better one may lie
# outside. A run that diverges has no accuracy.

# %%
RATES = (0.001, 0.003, 0.01, 0.03)


def fine_tune(model, lr, seed, images):
    """A run, or None if the rate was too high for it."""
    options = {"batch_size": 2, "lr": lr, "seed": seed, "points": 10, "tests": 1}
    with suppress(RunError):
        return train(model, images, progress=False, **options)


def right(run):
    return run.accuracy if run else 0.0


def in_pairs(jobs, images):
    """Run jobs of (name, learning rate, seed), two at a time."""
    models = [prepare(name, seed) for name, _, seed in jobs]
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(
            lambda job, model: fine_tune(model, *job[1:], images),
            jobs,
            models,
        )
        return dict(zip(jobs, zip(models, runs, strict=True), strict=True))


tried = in_pairs([(n, lr, 0) for n in NAMES for lr in RATES], choosing)
best = {}
print("             " + "".join(f"{lr:>9}" for lr in RATES))
for name in NAMES:
    row = {lr: right(tried[name, lr, 0][1]) for lr in RATES}
    best[name] = max(row, key=row.get)
    at_the_end = best[name] in (RATES[0], RATES[-1])
    note = f"   {best[name]}" + (", at the end of the grid" if at_the_end else "")
    shares = [f"{share:.1%}" if share else "diverged" for share in row.values()]
    print(f"{name:13}" + "".join(f"{share:>9}" for share in shares) + note)

# %% [markdown]
# ## Three seeds
#
# With the rate that was chosen, each way is run with three other seeds: of
# the last layer, of the order of the images and of the flips.
#
# Batch norm is looked at three times, for it is three functions. In
# evaluation it uses running statistics that were collected while the weights
# still moved, two images at a time: that is its row **BN**, as for all. **BN
# in pairs** is the same network in training mode on the test images, with the
# statistics of two of them, as it was trained. **BN anew** is the same
# network with statistics taken again in the end, on the thousand images in
# batches of 50.

# %%
SEEDS = (1, 2, 3)
runs = in_pairs([(name, best[name], s) for name in NAMES for s in SEEDS], second)
accuracy = {
    name: [runs[name, best[name], seed][1].accuracy for seed in SEEDS] for name in NAMES
}


@torch.no_grad()
def in_pairs_of_images(model):
    """The share of test images right, in training mode, two at a time."""
    model = deepcopy(model).train()
    pairs = zip(second.test_images.split(2), second.test_labels.split(2), strict=True)
    right = seen = 0
    for x, y in pairs:
        # Here the last pair may lack one image.
        if len(x) == 2:
            right += (model(second.standardize(x)).argmax(1) == y).sum().item()
            seen += 2
    return right / seen


accuracy["BN in pairs"] = [
    in_pairs_of_images(runs["BN", best["BN"], seed][0]) for seed in SEEDS
]
accuracy["BN anew"] = []
for seed in SEEDS:
    model = deepcopy(runs["BN", best["BN"], seed][0])
    batches = zip(range(20), shuffled_batches(second, 50, seed), strict=False)
    update_statistics(model, [second.standardize(x) for _, (x, _) in batches])
    accuracy["BN anew"].append(evaluate(model, second))

mean = {name: sum(shares) / len(shares) for name, shares in accuracy.items()}
for name in sorted(mean, key=mean.get, reverse=True):
    shares = "  ".join(f"{share:.1%}" for share in accuracy[name])
    print(f"{name:13} {mean[name]:6.1%}   seeds: {shares}")

# %% tags=["plot"]
LOOKS = {
    "BN": plotting.METHODS["BN"].style,
    "BN in pairs": plotting.METHODS["BN"].style | {"marker": "s"},
    "BN anew": plotting.METHODS["BN+WS"].style,
    "BN frozen": plotting.METHODS["none"].style,
    "GN": plotting.METHODS["GN"].style,
    "BCN+WS": plotting.METHODS["BCN+WS"].style,
    "BCN+WS kept": plotting.METHODS["BCN+WS"].style | {"linewidth": 3},
}
fig, ax = plt.subplots(figsize=(4.8, 3.1))
ranking = sorted(mean, key=mean.get)
for height, name in enumerate(ranking):
    percent = [100 * share for share in accuracy[name]]
    look = {"marker": "o", **LOOKS[name], "linestyle": "none"}
    ax.plot(percent, [height] * len(percent), **look)
    ax.text(max(percent) + 0.8, height, f"{100 * mean[name]:.1f}", va="center", size=9)
ax.axvline(25, color=plotting.TEXT, linewidth=0.8, linestyle=":")
ax.set(yticks=range(len(ranking)), yticklabels=ranking)
ax.set(xlabel="test accuracy (%)", ylim=(-0.5, len(ranking) - 0.5))
fig.suptitle(f"Fine-tuned: {data.source}", fontsize=11, x=0.4)
plotting.show(
    fig,
    "Test accuracy of each seed, with the mean beside it, the best on top. The "
    "dotted line is guessing. Where dots of two rows overlap, three seeds do not "
    "tell the two apart.",
    "Test accuracy: " + ", ".join(f"{n} {m:.1%}" for n, m in mean.items()) + ".",
)

# %% [markdown]
# ## On the way
#
# How high does the loss start, once the norms have been changed? Batch norm
# in training is measured on other statistics than in evaluation, so that a
# low line there need not mean a good network.

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
ends = []
for name in NAMES:
    finished = [run for s in SEEDS if (run := runs[name, best[name], s][1])]
    curves = [run.points for run in finished]
    seen = [point.images for point in curves[0]]
    losses = torch.tensor([[point.loss for point in c] for c in curves]).mean(0)
    ax.plot(seen, losses, label=name, **LOOKS[name])
    ends.append(f"{name} {losses[0]:.2f} to {losses[-1]:.2f}")
ax.set(xlabel="images seen", ylabel="training loss", xlim=(0, None))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Training loss: {data.source}", fontsize=11)
plotting.show(
    fig,
    "The training loss, averaged over 100 images and three seeds. The first point "
    "shows how much of the trained network each way has kept.",
    "Training loss, from the first 100 images to the last: " + ", ".join(ends) + ".",
)

# %% [markdown]
# ## Who is above whom
#
# Said only where all seeds of one are above all seeds of the other; and what
# is not said is not known. Besides, there are $n$ test images only: with others,
# a share $p$ that is right would come out different by about
#
# $$\sqrt{\frac{p (1 - p)}{n}}$$

# %%
for name in ("BCN+WS kept", "BCN+WS"):
    for other in accuracy:
        if min(accuracy[name]) > max(accuracy[other]):
            print(f"{name} is above {other} in every seed")
        elif max(accuracy[name]) < min(accuracy[other]):
            print(f"{name} is BELOW {other} in every seed")
        elif other != name:
            print(f"{name} and {other} are not told apart")
error = (mean["BN"] * (1 - mean["BN"]) / len(second.test_images)) ** 0.5
print(f"(another draw of test images would move each of them by about {error:.1%})")

# %% [markdown]
# ## Baked
#
# What goes to those who only use the network: plain modules, the same
# results, any size of image.

# %%
model = runs["BCN+WS kept", best["BCN+WS kept"], SEEDS[0]][0].eval()
plain = bake(model, EXAMPLE)
kinds = Counter(type(m).__name__ for m in plain.modules() if not [*m.children()])
print(", ".join(f"{count} {kind}" for kind, count in kinds.items()))

x = second.standardize(second.test_images[:100])
with torch.no_grad():
    difference = (plain(x) - model(x)).abs().max().item()
print(f"outputs differ by {difference:.0e} at most")
print(f"{evaluate(plain, second):.1%} right, before {evaluate(model, second):.1%}")
assert difference < 1e-4

free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
program = torch.export.export(plain, (x[:2],), dynamic_shapes=(free,)).module()
print("exported, at another size:", list(program(torch.randn(1, 3, 48, 40)).shape))

# %% [markdown]
# ## What came out


# %% tags=["say"]
def beside(one, other):
    """How one way compares to another, in words."""
    if min(accuracy[one]) > max(accuracy[other]):
        how = "above"
    elif max(accuracy[one]) < min(accuracy[other]):
        how = "**below**"
    else:
        return f"is not told apart from {other} ({mean[one] - mean[other]:+.1%})"
    return f"is {how} {other} in every seed, by {abs(mean[one] - mean[other]):.1%}"


ways = {name: mean[name] for name in NAMES}
first_place = max(ways, key=ways.get)
plotting.say(
    f"**{first_place}** came out first of the five ways, with {mean[first_place]:.1%}.",
    f"BCN+WS kept {beside('BCN+WS kept', 'BN frozen')},",
    f"and {beside('BCN+WS kept', 'BN')}.",
    "To standardize as if the network had never been trained costs something:"
    if min(accuracy["BCN+WS kept"]) > max(accuracy["BCN+WS"])
    else "To standardize as if the network had never been trained costs nothing"
    " that shows:",
    f"BCN+WS {beside('BCN+WS', 'BCN+WS kept')}.",
)
plotting.say(
    f"Batch norm's gap: trained on pairs, it has {mean['BN in pairs']:.1%} right in"
    f" training mode, {mean['BN']:.1%} in evaluation,"
    f" and {mean['BN anew']:.1%} with statistics taken anew.",
    "In evaluation it is better than in the mode it was trained in."
    if mean["BN"] > mean["BN in pairs"]
    else "In evaluation it is worse than in the mode it was trained in.",
    "New statistics help in every seed."
    if min(accuracy["BN anew"]) > max(accuracy["BN"])
    else "Three seeds do not tell whether new statistics help.",
)

# %% [markdown]
# ## What this shows, and what not
#
# It **shows** that a network of somebody's can be converted, fine-tuned and
# baked with three calls, and it compares that with what people do today, in
# one small setting, each way at its best rate of four.
#
# The one to beat in so short a fine-tuning is the **frozen** batch norm. Its
# statistics were measured with batches of 64 on pictures of the same kind,
# a thousand images are not many to find better ones with, and it costs
# nothing. Where the statistics no longer fit it has nothing to offer: for
# images of another kind, for new layers behind the trained ones, and for
# training from scratch, which is what [the recorded study](../results.md) is
# about.
#
# A gap that is smaller than the error printed with it would need more test
# images, even where it points the same way in every seed.
#
# It **cannot** show more:
#
# - **Three seeds, a grid of four rates, one pass over a thousand images.**
#   A longer run gives fresh norms and estimates more time. At a momentum of
#   0.01 an estimate needs a few hundred steps to leave its start behind.
# - **One shift.** The new classes are photographs like the old ones.
# - **A small network.** Twenty-four to 96 channels, nine convolutions with
#   a norm, and no pretraining on a million images.
# - **The data.** If the titles say "part of CIFAR-10" or "stand-in", the
#   accuracies do not compare with those of others.
#
# To try your own case, change `prepare`, the classes or the rates, and run
# it again.

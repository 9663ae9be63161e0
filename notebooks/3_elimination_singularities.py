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
# # Channels that fall silent
#
# A ReLU passes on what is positive. If a channel's values sink below zero for
# every image, its ReLU gives 0 for every image: no signal goes through it,
# and no gradient comes back through it. The [papers](../papers.md) call such
# points of the training trajectory **elimination singularities**: places
# where neurons are consistently deactivated. Near them training is slow.
#
# Their argument about norms is this. Batch norm centres each channel by
# itself, so that about half of its values are positive, until a learned
# shift moves them. Group norm centres a *group* of channels together. One of
# them can sit far below the others, and no distance is guaranteed.
# Batch-channel norm does both, one after the other.
#
# This notebook first looks at one silent channel: is it out of reach? Then
# it counts. It trains the same small network with five norms, two images a
# step, and watches each ReLU while it trains.

# %%
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from labml_bcn import BatchChannelNorm, BatchNorm
from labml_bcn.experiment import cifar10, plotting, vgg
from labml_bcn.experiment.train import train

torch.set_num_threads(1)
plotting.use_style()
data = cifar10.load_or_stand_in()
print("images:", data.source)

# %% [markdown]
# ## What still reaches a silent channel
#
# One convolution, a norm, a ReLU, the average over each channel and a linear
# layer. We silence one channel in the way that is open under every norm: its
# learned shift becomes −10. Then we ask twice.
#
# - Does a **gradient** of the loss still reach the channel's filter? Beside
#   it stand the filters of the channels that are not silent.
# - Does it **matter** what the filter is? Another one is drawn in its place,
#   and we look how far the network's outputs move, as a share of the
#   largest.

# %%
C, SILENT = 8, 2
few = data.standardize(data.train_images[:64])
few_labels = data.train_labels[:64].long()


def network(norm):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, C, 3, padding=1, bias=False)
    parts = conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(C, 10))


def reach(norm, shift):
    """Gradients of the filters, and how far a new silent filter moves outputs."""
    model = network(norm)
    with torch.no_grad():
        shift[SILENT] = -10
    outputs = model(few)
    assert model[:3](few)[:, SILENT].max() == 0
    F.cross_entropy(outputs, few_labels).backward()
    gradients = model[0].weight.grad.flatten(1).norm(dim=1)
    with torch.no_grad():
        model[0].weight[SILENT] = torch.randn(3, 3, 3) / 5
        moved = (model(few) - outputs).abs().max() / outputs.abs().max()
    silent = gradients[SILENT].item()
    gradients[SILENT] = 0
    return silent, gradients.max().item(), moved.item()


batch, group = BatchNorm(C), nn.GroupNorm(2, C)
both = BatchChannelNorm(C, groups=2, momentum=0)
reached = {
    "BN": reach(batch, batch.shift),
    "GN": reach(group, group.bias),
    "BCN": reach(both, both.batch_norm.shift),
}
print("      gradient of the filter   a new silent filter")
print("       silent  others, up to      moves outputs by")
for name, (silent, most, moved) in reached.items():
    print(f"{name:5} {silent:7.4f} {most:14.4f} {moved:21.1%}")
assert reached["BN"][0] == reached["BN"][2] == 0
assert reached["GN"][0] > 0

# %% [markdown]
# Behind **batch norm** both are exactly 0. Each channel has statistics of its
# own, so that a silent one takes part in nothing: whatever its filter is, the
# network computes the same, and no gradient brings it back. (The cell would
# fail otherwise.)
#
# Behind **group norm** neither is 0. The silent channel gives nothing to the
# next layer, but its values are still counted in the mean and the variance of
# its group. So the group's other channels move with it, and a gradient, if a
# smaller one, comes back through them. The same holds for **batch-channel
# norm**, whose second half is a group norm. There, a silent channel is not
# out of reach. It is slow.
#
# ## Two numbers a channel
#
# Over a window of 100 steps, that is 200 images:
#
# - **How silent is it?** The share of its ReLU's outputs that are zero,
#   $z_c$. It is 0.5 where half of the values pass, and 1 where none does.
# - **How uneven are the channels of a layer?** In front of the ReLU, channel
#   $c$ has a mean $m_c$ and a variance $v_c$. The variance of the whole layer
#   is made of two parts, the variance inside the channels and the variance of
#   their means:
#
# $$\operatorname{Var}(x) = \frac{1}{C} \sum_c v_c +
# \frac{1}{C} \sum_c (m_c - m)^2$$
#
# The unevenness is the second part's share of the whole: 0 where all channels
# have one mean, and close to 1 where a value says little but which channel it
# is of.
#
# Hooks collect the sums in each training step, on the values that the network
# trains with. Nothing else is run, and the training stays what it was.


# %%
class Watch:
    """Sums over the channels of every ReLU of a model, by window."""

    def __init__(self, model, steps):
        self.steps, self.step, self.windows = steps, 0, []
        relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
        self.sums = [0.0] * len(relus)
        for layer, relu in enumerate(relus):
            relu.register_forward_hook(self.hook(layer))
        model.register_forward_hook(self.count)

    def hook(self, layer):
        @torch.no_grad()
        def add(relu, inputs, output):
            if relu.training:
                x = inputs[0].transpose(0, 1).flatten(1).double()
                parts = (x <= 0).double(), x, x * x, torch.ones_like(x)
                self.sums[layer] += torch.stack([p.sum(1) for p in parts])

        return add

    def count(self, model, inputs, output):
        self.step += model.training
        if model.training and self.step % self.steps == 0:
            self.windows.append([measures(*sums) for sums in self.sums])
            self.sums = [0.0] * len(self.sums)


def measures(zeros, total, squares, count):
    """The silence of each channel, and the unevenness of the layer."""
    mean = total / count
    inside = squares / count - mean**2
    between = mean.var(correction=0)
    return zeros / count, (between / (between + inside.mean())).item()


# %% [markdown]
# Does it measure what it says? Four channels of noise, one of them moved far
# down: that one must be silent, and the unevenness must be the share that the
# formula gives, here $3 / (3 + 1)$ for means of 0, 0, 0 and −4.

# %%
noise = torch.randn(4, 100_000, generator=torch.Generator().manual_seed(0))
x = noise + torch.tensor([[0.0], [0.0], [0.0], [-4.0]])
silence, unevenness = measures(
    *(x <= 0).double().sum(1)[None],
    *(x.double().sum(1), x.double().square().sum(1), 100_000),
)
print("silent:", [f"{share:.2f}" for share in silence.tolist()])
print(f"uneven: {unevenness:.3f}")
assert silence[3] > 0.999
assert abs(unevenness - 3 / 4) < 0.01

# %% [markdown]
# ## Five norms
#
# All start from the same weights, see the same images in the same order and
# have one learning rate. Batch-channel norm has the settings [for one or two
# images a batch](../use.md#which-momentum). It is there without weight
# standardization, too: only this variant can show what batch-channel norm
# does by itself.

# %%
micro = {"norm": "bcn", "variance_around": "running_mean", "momentum": 0.01}
variants = {
    "BN": {"norm": "bn"},
    "GN": {"norm": "gn"},
    "GN+WS": {"norm": "gn", "ws": True},
    "BCN": micro,
    "BCN+WS": {**micro, "ws": True},
}


# Here, one after the other: to draw first weights takes PyTorch's global
# random state, which is no thread's own. The ReLU stays a layer of its own, so
# that there is something to hook.
models = {
    name: vgg.build("small", **options, seed=0, separate_relu=True)
    for name, options in variants.items()
}


def run(name):
    watch = Watch(models[name], steps=100)
    options = {"images": 1600, "lr": 0.003, "tests": 1, "progress": False}
    train(models[name], data, batch_size=2, **options)
    return watch.windows


with ThreadPoolExecutor(2) as pool:
    windows = dict(zip(variants, pool.map(run, variants), strict=True))
channels = sum(len(silence) for silence, _ in windows["BN"][0])
print(f"{channels} channels in {len(windows['BN'][0])} layers")

# %% [markdown]
# ## How silent
#
# Of all channels of the network, the share of those that are nearly silent:
# more than 95% of their ReLU's outputs are zero in the window.

# %%
images = [200 * (k + 1) for k in range(8)]
silent = {
    name: [
        sum(int((silence > 0.95).sum()) for silence, _ in layers) / channels
        for layers in found
    ]
    for name, found in windows.items()
}
print("          nearly silent   the most silent channel's zeros, by layer")
for name, found in windows.items():
    worst = " ".join(f"{silence.max():6.1%}" for silence, _ in found[-1])
    print(f"{name:9} {silent[name][-1]:13.1%}   {worst}")

# %% [markdown]
# One row a norm, in the last window. A channel at 100% gave nothing for those
# 200 images.

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
for name, shares in silent.items():
    look = plotting.METHODS[name].style
    ax.plot(images, [100 * s for s in shares], marker="o", label=name, **look)
ax.set(xlabel="images seen", ylabel="nearly silent channels (%)")
ax.set(xlim=(0, None), ylim=(-0.3, None))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Nearly silent channels: {data.source}", fontsize=11)
plotting.show(
    fig,
    "The share of the network's channels whose ReLU gives zero for more than "
    "95% of its inputs, in windows of 200 images. Lower is better; where a "
    "line is missing, another one lies on it.",
    "Nearly silent channels in the last window: "
    + ", ".join(f"{name} {s[-1]:.1%}" for name, s in silent.items())
    + ".",
)

# %% [markdown]
# ## How uneven
#
# The same window, a mark a layer, from the one that sees the image to the
# one before the classifier.

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
layers = range(1, len(windows["BN"][-1]) + 1)
for name, found in windows.items():
    share = [unevenness for _, unevenness in found[-1]]
    look = plotting.METHODS[name].style
    ax.plot(layers, share, marker="o", label=name, **look)
ax.set(xlabel="layer", ylabel="unevenness", ylim=(-0.02, None))
ax.set(xticks=list(layers))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Unevenness of channels: {data.source}", fontsize=11)
plotting.show(
    fig,
    "The share of a layer's variance that lies between its channels' means, "
    "in the last window. At zero all channels have the same mean; the "
    "higher, the further some of them sit below the others.",
    "Unevenness in the last layer: "
    + ", ".join(f"{n} {w[-1][-1][1]:.2f}" for n, w in windows.items())
    + ".",
)

# %% [markdown]
# ## Every channel of one layer
#
# The last layer in the last window, its channels sorted by how silent they
# are. A level line at one half is a layer whose channels all do their share.

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
for name, found in windows.items():
    silence, _ = found[-1][-1]
    look = plotting.METHODS[name].style
    ax.plot(100 * silence.sort().values, label=name, **look)
ax.axhline(50, color=plotting.TEXT, linewidth=0.8, linestyle=":")
ax.set(xlabel="channel, sorted", ylabel="zeros (%)", ylim=(0, 103))
fig.legend(loc="outside lower center", ncols=3)
fig.suptitle(f"Zeros behind the last ReLU: {data.source}", fontsize=11)
plotting.show(
    fig,
    "The share of zeros behind the last ReLU, for each of its channels. "
    "Channels at the right end, close to 100%, are close to being "
    "eliminated.",
    "The range of zeros over the channels of the last layer: "
    + ", ".join(
        f"{n} {w[-1][-1][0].min():.0%} to {w[-1][-1][0].max():.0%}"
        for n, w in windows.items()
    )
    + ".",
)

# %% [markdown]
# ## Why not one half
#
# Batch norm and the first half of batch-channel norm put each channel's mean
# to zero. Why is the share of zeros then not one half everywhere? Because
# scale and *shift* come after that, and are learned. We take the trained
# networks, put 200 training images through them in evaluation mode, and
# count zeros twice at each ReLU: as it is, and as it would be if the norm in
# front of it had no shift.


# %%
@torch.no_grad()
def zeros(model):
    """The share of zeros in each channel, with the learned shifts and without."""
    found = []

    def count_behind(norm):
        unshifted = deepcopy(norm)
        for name, parameter in unshifted.named_parameters():
            if name.endswith(("shift", "bias")):
                parameter.zero_()

        def count(norm, inputs, output):
            pair = torch.stack([output, unshifted(*inputs)])
            found.append((pair <= 0).float().mean((1, 3, 4)))

        norm.register_forward_hook(count)

    model.eval()
    for block in model.features:
        if isinstance(block, nn.Sequential):
            count_behind(block[1])
    model(data.standardize(data.train_images[:200]))
    return torch.cat(found, 1)


shares = {name: zeros(model) for name, model in models.items()}
print("            zeros: with shift         without")
print("          mean   channels        mean   channels")
for name, pair in shares.items():
    row = ""
    for share in pair:
        low, high = share.quantile(torch.tensor([0.05, 0.95])).tolist()
        row += f"{share.mean():7.1%}  {low:4.0%} to {high:4.0%}  "
    print(f"{name:8}{row.rstrip()}")

# %% [markdown]
# Beside each mean stands the range in which nine of ten channels lie. What
# differs from one half without the shift is the shape of the channel's values
# (a mean of zero is no median of zero), and under group norm the height of
# the channel in its group. Do the shifts make zeros, or take zeros away?


# %% tags=["say"]
def verb(pair):
    before, after = (share.mean().item() for share in pair.flip(0))
    if abs(after - before) < 0.02:
        return f"hardly do either ({before:.0%} without, {after:.0%} with)"
    change = "make zeros" if after > before else "take zeros away"
    return f"{change} ({before:.0%} without, {after:.0%} with)"


plotting.say(
    f"The learned shifts of BCN+WS {verb(shares['BCN+WS'])}, those of BCN"
    f" {verb(shares['BCN'])} and those of BN {verb(shares['BN'])}.",
    "Centring is where a channel starts from, and no promise of where it stays.",
)

# %% [markdown]
# ## What came out

# %% tags=["say"]
last = {name: found[-1] for name, found in silent.items()}
uneven = {name: sum(u for _, u in w[-1]) / len(w[-1]) for name, w in windows.items()}
some = [f"{name} {share:.1%}" for name, share in last.items() if share]
none = [name for name, share in last.items() if not share]
said = ["**Nearly silent in the last window:** " + (", ".join(some) or "none") + "."]
if some and none:
    said.append(f"No channel at all with {', '.join(none)}.")
if last["GN"] and not last["GN+WS"]:
    said.append(
        "So **weight standardization alone was enough** to keep the channels of a"
        " group norm awake here. Beside it batch-channel norm had nothing left to do,"
        " and this run is no reason to prefer it to GN+WS."
    )
elif last["GN+WS"]:
    said.append("Weight standardization alone did not keep all channels awake.")
if last["BCN"] < last["GN"]:
    said.append(
        "**Without weight standardization** batch-channel norm left"
        f" {last['BCN']:.1%} silent where group norm left {last['GN']:.1%}: that is"
        " what its first half does."
    )
else:
    said.append(
        "Without weight standardization batch-channel norm left no fewer channels"
        " silent than group norm."
    )
said.append(
    "The unevenness, averaged over the layers, points to why: "
    + ", ".join(f"{name} {share:.2f}" for name, share in uneven.items())
    + "."
)
plotting.say(*said)

# %% [markdown]
# ## What this shows, and what not
#
# The silent channels are the papers' claim, counted: which norms let channels
# fall silent while a network trains. The unevenness is the mechanism.
#
# - **BN** centres each channel on the very batch that it is measured on, so
#   that its means differ by the learned shifts alone.
# - **BCN** centres on an estimate, which trails behind a little, and has
#   learned shifts behind it, too.
# - **WS** centres filters, not channels. What that alone does is the
#   difference between the two orange lines; what BCN does without it, the
#   dashed violet one.
#
# A silent channel need not harm: a network may have more of them than it
# needs. Whether the accuracy follows is another question, and [the recorded
# study](../results.md) is where it is asked. This is one seed, one learning
# rate and 800 steps of a small network.

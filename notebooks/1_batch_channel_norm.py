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
# # Batch-channel norm on real tensors
#
# Batch norm measures a mean and a variance on the batch. With one or two
# images in the batch, what does it measure? And what does
# [batch-channel norm](../labml_bcn/batch_channel_norm.py) put in its place?
# The layer's page answers with formulas. This notebook looks at the numbers:
# images go through a convolution, and we watch what each norm makes of the
# result.
#
# You need to know what batch norm does. The letters are those of the
# [glossary](../glossary.md): $B$ samples in a batch, $C$ channels, $L$
# positions, and $r$ for the momentum, the weight of the *new* value.
#
# Every number below was printed by the cell above it.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    WSConv2d,
)
from labml_bcn.experiment import cifar10, plotting

torch.set_num_threads(1)
plotting.use_style()
data = cifar10.load_or_stand_in()
print("images:", data.source)

# %% [markdown]
# ## The images
#
# One of each class, 32 by 32 pixels. Where no photographs were found, these
# are stripes, and the output above says so; all that follows works the same
# on them.

# %% tags=["plot"]
fig, axes = plt.subplots(2, 5, figsize=(5, 2.9), layout="constrained")
for label, ax in enumerate(axes.flat):
    first = int((data.train_labels == label).nonzero()[0])
    ax.imshow(data.train_images[first].permute(1, 2, 0).numpy())
    ax.set_xlabel(data.classes[label].replace(" stripes ", "\n"), fontsize=9)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
fig.suptitle(f"One of each class: {data.source}", fontsize=11)
plotting.show(fig, "The first training image of each class.")

# %% [markdown]
# ## Through a convolution
#
# A fresh convolution makes 8 channels of the 3 colours. We change one thing:
# the bias of channel 2 is lowered, as an unlucky stretch of training may
# leave it. That channel is the one to watch.

# %%
torch.manual_seed(0)
C, LOW = 8, 2
conv = nn.Conv2d(3, C, 3, padding=1).requires_grad_(False)
conv.bias[LOW] -= 2
x = conv(data.standardize(data.train_images[:2048]))
total_mean = x.mean((0, 2, 3))
total_var = x.var((0, 2, 3), correction=0)
print("x:", list(x.shape))
print("channel   mean    std")
for c in range(C):
    print(f"{c:7} {total_mean[c]:6.2f} {total_var[c].sqrt():6.2f}")

# %% [markdown]
# These 2,048 images are all the data there is in this notebook. So mean and
# variance over all of them are the truth, and what is measured on a few of
# them is an attempt at it.
#
# ## Before, between and after
#
# Batch-channel norm is two norms, one after the other. The
# [first](../labml_bcn/batch_channel_norm.py#EstimatedBatchNorm) centres and
# scales each channel, with running estimates of its mean and variance. The
# [second](../labml_bcn/batch_channel_norm.py#ChannelNorm) normalizes each
# image over groups of channels. Here it trains for 1,000 steps with two
# images each, and then looks at all the images.


# %%
def batches(size, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield x[torch.randint(len(x), (size,), generator=generator)]


bcn = BatchChannelNorm(
    C, groups=2, momentum=0.01, variance_around="running_mean"
).requires_grad_(False)
for batch in batches(size=2, steps=1000):
    bcn(batch)
bcn.eval()
between = bcn.batch_norm(x)
after = bcn(x)

# %% tags=["plot"]
stages = {"Before": (x, "none"), "Between": (between, "BN")}
stages["After"] = (after, "BCN")
fig, axes = plt.subplots(1, 3, figsize=(5.2, 3.6), sharey=True, layout="constrained")
for ax, (name, (values, method)) in zip(axes, stages.items(), strict=True):
    for c in range(C):
        height = values[:, c].histc(80, -4, 4)
        top = c - 0.85 * height / height.max()
        grid = torch.linspace(-3.95, 3.95, 80)
        look = {"color": plotting.METHODS[method].colour, "linewidth": 0.8}
        ax.fill_between(grid, top, c, alpha=0.45, **look)
    ax.axvline(0, color=plotting.TEXT, linewidth=0.8, linestyle=":")
    ax.set(title=name, xlabel="value", xlim=(-4, 4), yticks=range(C))
    ax.set_xticks((-3, 0, 3))
axes[0].set(ylabel="channel", ylim=(C - 0.8, -1.1))
fig.suptitle(f"Values of each channel: {data.source}", fontsize=11)
plotting.show(
    fig,
    "Before, every channel has a height and a width of its own. Between, "
    "after the batch norm, each is centred and about equally wide. After, "
    "each image's groups are centred and scaled too.",
    "Three columns of eight histograms, one a channel. Before: channel 2 "
    "lies far left of zero. Between and after: all lie around zero.",
)

# %% [markdown]
# ## What the batch norm is for
#
# A ReLU comes next, and lets through what is above zero. A channel that
# never gets there is *eliminated*: its output is 0, and through its ReLU
# comes no gradient. So the share of values above zero is the number to look
# at. (What [still reaches such a
# channel](3_elimination_singularities.py#what-still-reaches-a-silent-channel)
# is measured in the third notebook.)
#
# Group norm is the channel norm alone. It centres a group, four channels
# here, and moves all of them together. What lies below the others before
# lies below them afterwards. In batch-channel norm, the batch norm comes
# first and centres every channel for itself.

# %%
gn = nn.GroupNorm(2, C)
results = {"none": x, "GN": gn(x).detach(), "BCN": after}
alive = {name: (values > 0).float().mean((0, 2, 3)) for name, values in results.items()}
print("above zero, in percent")
print("channel   conv     GN    BCN")
for c in range(C):
    print(f"{c:7}", *(f"{alive[name][c]:6.1%}" for name in alive))

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.2))
marks = {"none": "|", "GN": "o", "BCN": "D"}
names = {"none": "convolution", "GN": "GN", "BCN": "BCN"}
for name, share in alive.items():
    look = plotting.METHODS[name].style | {"linestyle": "none"}
    ax.plot(100 * share, range(C), marks[name], label=names[name], **look)
ax.set(xlabel="values above zero (%)", ylabel="channel", xlim=(-2, 102))
ax.set(yticks=range(C), ylim=(C - 0.5, -0.5))
ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1))
fig.suptitle(f"Alive after the ReLU: {data.source}", fontsize=11, y=1.06)
plotting.show(
    fig,
    "Look at channel 2, whose bias was lowered. Group norm leaves it where "
    "it was, below the rest of its group; batch-channel norm brings it back "
    "among them.",
)

# %% [markdown]
# ## Batches shrink, statistics scatter
#
# Why not simply use the batch's own statistics, as batch norm does? Because
# of what follows. We draw many random batches of 128 images, then of 32, and
# so on down to 1, and measure mean and variance of each. (On [a page of its
# own](../scatter.md) you can turn the batch size and the momentum yourself.)
#
# A batch of one image still has $L = 1024$ values a channel, which seems
# plenty. But they are not independent. A dark photograph is dark all over:
# in it, most values are off to the same side. So it is the number of
# *images* that counts, and the scatter of the mean grows like $1/\sqrt{B}$.
#
# Beside it stands the estimate with $r = 0.01$. Each step it moves a
# hundredth of the way toward the batch, and so it averages over many
# batches. For independent batches its variance is $r / (2 - r)$ times theirs:
#
# $$\frac{\operatorname{Var}(\mu_c)}{\operatorname{Var}(m_c)} =
# \frac{r}{2 - r}$$
#
# Here the estimate begins at the truth, so that only its scatter shows. How
# it gets there by itself is the next section.


# %%
def wander(size, steps=1000, momentum=0.01):
    norm = EstimatedBatchNorm(C, momentum=momentum, variance_around="running_mean")
    norm.exp_mean.copy_(total_mean)
    norm.exp_var.copy_(total_var)
    seen = []
    for batch in batches(size, steps, seed=size):
        norm(batch)
        estimate = norm.exp_mean, norm.exp_var
        measured = norm.batch_statistics(batch)[:2]
        seen.append(torch.stack([*measured, *estimate]))
    m, v, mu, sigma2 = torch.stack(seen, 1)
    std = total_var.sqrt()
    return {
        "mean": ((m - total_mean) / std, (mu - total_mean) / std),
        "variance": (v / total_var, sigma2 / total_var),
    }


sizes = (128, 32, 8, 4, 2, 1)
scatter = {size: wander(size) for size in sizes}

# %%
print("           mean            variance")
print("  B    batch estimate    batch estimate")
for size in sizes:
    row = [f"{size:3}"]
    for batch, estimate in scatter[size].values():
        row += [f"{batch.std(0).mean():8.3f}"]
        row += [f"{estimate.std(0).mean():8.3f}"]
    print(*row)

# %% [markdown]
# The table holds standard deviations, averaged over the channels: of the
# mean in units of the channel's true standard deviation, of the variance in
# units of the true one. Read down a column to see what a smaller batch does,
# and across to see what the estimate does. The lower rows of the estimate
# compare with the upper rows of the batch.

# %% tags=["plot"]
fig, axes = plt.subplots(2, 1, figsize=(4.8, 5), sharex=True, layout="constrained")
for ax, what, truth in zip(axes, ("mean", "variance"), (0, 1), strict=True):
    ax.axhline(truth, color=plotting.TEXT, linewidth=0.8, linestyle=":")
    for place, size in enumerate(sizes):
        pair = scatter[size][what]
        for name, values in zip(("BN", "BCN"), pair, strict=True):
            side = -0.18 if name == "BN" else 0.18
            shown = values[::25, 0]
            across = place + side + torch.linspace(-0.11, 0.11, len(shown))
            look = plotting.METHODS[name].style | {"linestyle": "none"}
            ax.plot(across, shown, "o", markersize=3, alpha=0.8, **look)
    ax.set(ylabel=f"{what} (1 = true {'std' if truth == 0 else 'variance'})")
axes[1].set(xlabel="images in a batch", xticks=range(len(sizes)))
axes[1].set_xticklabels(sizes)
fig.suptitle(f"Channel 0, batch by batch: {data.source}", fontsize=11)
plotting.show(
    fig,
    "Grey, the batch's own statistics: the fewer images, the wider they "
    "scatter. Violet, the estimate beside them: it stays close to the dotted "
    "line, the truth, down to single images.",
)

# %% [markdown]
# ## Where the running statistics settle
#
# An estimate is of use only if it settles at the right value. With one image
# a batch that is a question of its own, for the variance has two parts: how
# much the values differ *within* an image, and how much images differ
# *between* each other.
#
# $$\sigma^2_{\text{total}} =
# \sigma^2_{\text{within}} + \sigma^2_{\text{between}}$$
#
# A batch of one image, measured around its own mean, sees the first part
# only. Measured around the *running* mean it sees both, since the image's
# distance from the others now counts. The layer has both, as
# [`variance_around`][measure].
#
# [measure]: ../labml_bcn/batch_channel_norm.py#EstimatedBatchNorm.measure


# %%
def record(steps, size=1, **options):
    norm = EstimatedBatchNorm(C, **options)
    mean, var = [norm.exp_mean.clone()], [norm.exp_var.clone()]
    for batch in batches(size, steps):
        norm(batch)
        mean.append(norm.exp_mean.clone())
        var.append(norm.exp_var.clone())
    return torch.stack(mean), torch.stack(var)


within = x.var((2, 3), correction=0).mean(0)
modes = ("batch_mean", "running_mean")
path = {mode: record(4000, momentum=0.01, variance_around=mode)[1] for mode in modes}

# %%
print("variance within an image, and in all")
print("channel within batch_  total running_")
for c in range(C):
    settled = [path[mode][2000:, c].mean() for mode in modes]
    row = within[c], settled[0], total_var[c], settled[1]
    print(f"{c:7}", *(f"{value:6.2f}" for value in row))

# %% [markdown]
# `batch_` and `running_` are the averages of the two modes over the second
# half of the steps. Compare each with the column to its left. To be exact,
# the mode around the running mean settles a hair above the total, at
#
# $$\sigma^2_{\text{within}} +
# \frac{2}{2 - r} \, \sigma^2_{\text{between}}$$
#
# because the running mean that it measures from is never quite at rest.

# %% tags=["plot"]
c = int((1 - within / total_var).argmax())
fig, ax = plt.subplots(figsize=(4.8, 3.2))
for mode, target in zip(modes, (within, total_var), strict=True):
    width = 1.1 if mode == "batch_mean" else 2
    look = {"color": plotting.METHODS["BCN"].colour, "linewidth": width}
    ax.plot(range(0, 4001, 20), path[mode][::20, c], **look)
    ax.axhline(target[c], color=plotting.TEXT, linewidth=0.8, linestyle=":")
    place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    words = "within" if mode == "batch_mean" else "total"
    ax.annotate(words, (4000, target[c]), fontsize=9, **place)
ax.set(xlabel="steps with one image each", ylabel="running variance")
ax.set(ylim=(0, 2 * float(total_var[c])), xticks=range(0, 4001, 1000))
ax.set_xlim(0, 4000)
ax.set_title(f"Channel {c}: {data.source}")
plotting.show(
    fig,
    "Both lines come down from their start at 1. The thin one, batch_mean, "
    "settles at the variance within an image; the thick one, running_mean, "
    "at the total.",
)

# %% [markdown]
# ## The start is felt for a while
#
# The running statistics begin at mean 0 and variance 1, whatever the data.
# After $n$ steps this start still weighs $(1 - r)^n$. So the momentum is a
# choice between two evils: a large one forgets the start soon and scatters
# for ever, a small one is calm and comes late.
#
# Channel 2, the lowered one, shows it best, for its mean is far from 0.

# %%
print("weight of the start, by momentum")
print("steps    0.1   0.01")
for n in (10, 50, 100, 500):
    print(f"{n:5}", *(f"{(1 - r) ** n:6.1%}" for r in (0.1, 0.01)))

# %% tags=["plot"]
fig, ax = plt.subplots(figsize=(4.8, 3.2))
for r, width in ((0.1, 0.8), (0.01, 2)):
    mean, _ = record(600, momentum=r)
    look = {"color": plotting.METHODS["BCN"].colour, "linewidth": width}
    ax.plot(mean[:, LOW], label=f"momentum {r}", **look)
ax.axhline(total_mean[LOW], color=plotting.TEXT, linewidth=0.8, linestyle=":")
ax.set(xlabel="steps with one image each", ylabel="running mean")
ax.set(xlim=(0, 600))
ax.legend()
ax.set_title(f"Channel {LOW}: {data.source}")
plotting.show(
    fig,
    "At momentum 0.1 the estimate arrives within some fifty steps and then "
    "jumps about. At 0.01 it takes hundreds of steps to reach the dotted "
    "line, the true mean, and then stays near it.",
)

# %% [markdown]
# ## Training against evaluation
#
# Batch norm trains with the batch's statistics and evaluates with running
# ones. With 128 images the two are nearly the same. With two, the network is
# trained in one world and tested in another.
#
# The estimated batch norm uses its running statistics in both. Right after a
# training step, the same images give the same output in evaluation.
#
# Both norms first see 300 batches. Then 20 more go through each norm twice:
# as a training step, and right afterwards in evaluation mode.


# %%
def both_modes(kind, size):
    norm = kind(C).requires_grad_(False)
    for batch in batches(size, 300):
        norm(batch)
    pairs = [
        (norm.train()(batch), norm.eval()(batch)) for batch in batches(size, 20, seed=1)
    ]
    trained, evaluated = zip(*pairs, strict=True)
    return torch.cat(trained), torch.cat(evaluated)


print("average difference, train to eval")
print("  B  BatchNorm  EstimatedBatchNorm")
for size in sizes:
    row = [f"{size:3}"]
    for kind in (BatchNorm, EstimatedBatchNorm):
        trained, evaluated = both_modes(kind, size)
        difference = (trained - evaluated).abs().mean()
        row += [f"{difference:{len(kind.__name__) + 1}.3f}"]
    print(*row)

# %% tags=["plot"]
fig, axes = plt.subplots(1, 2, figsize=(5.2, 3.1), sharey=True, layout="compressed")
kinds = {"BN": BatchNorm, "BCN": EstimatedBatchNorm}
for ax, (name, kind) in zip(axes, kinds.items(), strict=True):
    trained, evaluated = both_modes(kind, size=2)
    look = plotting.METHODS[name].style | {"linestyle": "none"}
    pair = trained.flatten()[::1999], evaluated.flatten()[::1999]
    ax.plot(*pair, "o", markersize=3, **look)
    ax.axline((0, 0), slope=1, color=plotting.TEXT, linewidth=0.8)
    ax.set(title=kind.__name__, xlabel="in training", aspect="equal")
axes[0].set(ylabel="in evaluation", xlim=(-4, 4), ylim=(-4, 4))
axes[1].set(xlim=(-4, 4))
fig.suptitle(f"Two images a batch: {data.source}", fontsize=11, y=1.06)
plotting.show(
    fig,
    "Each dot is one value out of 20 batches. Estimated, all lie on the "
    "diagonal: training and evaluation agree. With the batch's own "
    "statistics, they scatter around it.",
)

# %% [markdown]
# ## Which values share statistics
#
# Norms differ in the values that share a mean and a variance. Instead of
# drawing that from memory, we ask the layers. Two samples with six
# channels and four positions go in, and we pick one value of the output.
# Then every input value is nudged in turn: does the picked output move? And
# does the *gradient* of the picked output reach that input?
#
# For most norms the two answers agree. For batch-channel norm they do not,
# and that is the point of it.

# %%
from copy import deepcopy
from itertools import product

PICK = (0, 1, 0)


def reach(norm, values):
    values = values.clone().requires_grad_()
    y = deepcopy(norm)(values)[PICK]
    (gradient,) = torch.autograd.grad(y, values)
    moved = torch.zeros_like(values)
    for place in product(*map(range, values.shape)):
        nudged = values.detach().clone()
        nudged[place] += 0.1
        moved[place] = (deepcopy(norm)(nudged)[PICK] - y).item()
    return moved.abs() > 1e-9, gradient.abs() > 1e-9


# %%
norms = {
    "BN": BatchNorm(6),
    "IN": ChannelNorm(6, groups=6),
    "LN": ChannelNorm(6, groups=1),
    "GN": ChannelNorm(6, groups=2),
    "BCN, batch half": EstimatedBatchNorm(6),
    "BCN": BatchChannelNorm(6, groups=2),
}
values = x[:2, :6, 8::16, 8::16].flatten(2).double()
reached = {name: reach(norm.double(), values) for name, norm in norms.items()}
print(f"of {values.numel()} inputs       move it  by gradient")
for name, (moved, graded) in reached.items():
    print(f"{name:16} {int(moved.sum()):10} {int(graded.sum()):12}")

# %% tags=["plot"]
fig, axes = plt.subplots(2, 3, figsize=(5, 5.3), layout="constrained")
for ax, (name, (moved, graded)) in zip(axes.flat, reached.items(), strict=True):
    colour = plotting.METHODS[name.split(",")[0]].colour
    for place in product(*map(range, values.shape)):
        sample, channel, position = place
        depth = 0.9 if graded[place] else 0.3 if moved[place] else 0
        look = {"fc": (colour, depth), "ec": plotting.TEXT, "lw": 0.4}
        corner = channel, 4.6 * sample + position
        ax.add_patch(plt.Rectangle(corner, 0.88, 0.88, **look))
    ax.plot(PICK[1] + 0.44, PICK[2] + 0.44, "o", color=plotting.TEXT)
    ax.set(title=name, xlim=(-0.1, 6), ylim=(8.6, -0.1), aspect="equal")
    ax.set(xticks=[], xlabel="channels", yticks=[1.95, 6.55])
    ax.set_yticklabels(["sample 0", "sample 1"], rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
fig.suptitle(f"What one output depends on: {data.source}", fontsize=11)
plotting.show(
    fig,
    "Each box is a sample, with channels across and positions down; the dot "
    "marks the output. Filled inputs reach it with a gradient, faint ones "
    "only through the running statistics.",
)

# %% [markdown]
# Read it row by row. Batch norm (BN) goes through the batch and stays in the
# channel. Instance, layer and group norm (IN, LN, GN) stay in the sample, and
# differ in how many channels they take together.
#
# The batch half of batch-channel norm reads the same values as batch norm,
# but weakly: each step moves the estimate by a fraction $r$. To the gradient
# the estimate is a constant, so its gradient reaches the value
# itself and no other. With the channel norm behind it, the gradient reaches
# the sample's group, as in group norm, while all samples have a say in where
# its channels are centred.
#
# ## Weight standardization
#
# The papers use batch-channel norm together with
# [weight standardization](../labml_bcn/weight_standardization.py). It leaves
# activations alone and looks at the convolution's filters: each is used with
# mean 0 and variance 1, whatever the stored weights are. Here are the filters
# of our convolution, as stored and as used.

# %%
ws = WSConv2d(3, C, 3, padding=1).requires_grad_(False)
ws.weight.copy_(conv.weight)
ws.bias.copy_(conv.bias)
print("             stored          used")
print(" filter   mean    std     mean    std")
for o in range(C):
    stored, used = ws.weight[o], ws.standardized_weight()[o]
    print(f"{o:7} {stored.mean():6.3f} {stored.std(correction=0):6.3f}", end="")
    print(f"  {abs(used.mean()):7.3f} {used.std(correction=0):6.3f}")

# %% [markdown]
# So a shift of a filter, or a larger filter, changes nothing. The optimizer
# cannot move the output in these directions, and cannot get lost in them.
# The next cell makes every filter three times as large, and shifts it by a
# half.

# %%
few = data.standardize(data.train_images[:4])
before = ws(few)
ws.weight.mul_(3).add_(0.5)
change = (ws(few) - before).abs().max() / before.abs().max()
print(f"largest change of the output: {change:.2%}")

# %% [markdown]
# ## What to take along
#
# - What counts for batch statistics is the number of images, not of values.
# - A running estimate is calm down to single images. The price is a start
#   that it has to forget.
# - With one image a batch, the variance must be taken around the running
#   mean, or it misses how images differ from each other.
# - Estimated statistics make training and evaluation the same function.
# - The batch half keeps each channel at the height of its neighbours, as
#   long as no learned shift moves it. The channel half normalizes each sample
#   by its own values.
#
# Does a network train better for it? The
# [next notebook](2_micro_batch_run.py) tries.

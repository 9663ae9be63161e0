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
# # How rough the loss is
#
# A gradient says which way is down *here*. A step goes on in that direction
# for a while, and trusts that down is still down. Where the loss is smooth,
# the gradient at the end of the step is much like the one at its start. Where
# it is rough, the two have little to do with each other, and a step may well
# lead up.
#
# The [papers](../papers.md) say that standardized weights make the loss
# smoother. What they prove is an inequality, about the Lipschitz constants of
# the loss and of its gradients: bounds that hold for all weights there are.
# It does not say by how much, nor what a step meets where training happens to
# be. That can be measured: a place and a direction, and how much the gradient
# changes along one step. This notebook does so, with and without weight
# standardization, before training and a little later.

# %%
from concurrent.futures import ThreadPoolExecutor
from statistics import mean

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch.func import functional_call

from labml_bcn.experiment import cifar10, plotting, vgg
from labml_bcn.experiment.train import train

torch.set_num_threads(1)
plotting.use_style()
data = cifar10.load_or_stand_in()
print("images:", data.source)

# %% [markdown]
# ## The change along a step
#
# Take the weights $w$ of all convolutions and the gradient $g(w)$ of the loss
# of one batch. Step against it, by a share $s$ of the weights' own length,
# and look at the gradient again, for the same batch:
#
# $$w' = w - s\,\|w\| \frac{g(w)}{\|g(w)\|} \qquad
# \text{change} = \frac{\|g(w') - g(w)\|}{\|g(w)\|}$$
#
# A change of 0 is a slope that stays as it is. At 1 the difference is as
# large as the gradient itself, so that it says little about where the step
# ended.
#
# Why a share, and not a length? All of these networks have a norm behind each
# convolution. Weights twice as large compute the same, and need a step twice
# as long for the same effect. A share treats all alike.


# %%
def changes(weights, loss, shares):
    """How much the gradient of `loss()` changes along steps of each share."""
    start = [w.detach().clone() for w in weights]
    before = torch.autograd.grad(loss(), weights)
    stretch = length(start) / length(before)
    found = []
    for share in shares:
        with torch.no_grad():
            for w, old, g in zip(weights, start, before, strict=True):
                w.copy_(old - share * stretch * g)
        after = torch.autograd.grad(loss(), weights)
        apart = [a - b for a, b in zip(after, before, strict=True)]
        found.append((length(apart) / length(before)).item())
    with torch.no_grad():
        for w, old in zip(weights, start, strict=True):
            w.copy_(old)
    return found


def length(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm()


# %% [markdown]
# Does it measure what it says? In a round bowl, $f(w) = \|w\|^2$, the
# gradient shrinks as the weights do: a step by a tenth of the way to the
# bottom changes it by a tenth. On a plane it does not change at all.

# %%
w = torch.randn(50, generator=torch.Generator().manual_seed(0))
w = w.requires_grad_()
[bowl] = changes([w], lambda: w.square().sum(), [0.1])
[plane] = changes([w], lambda: w.sum() + 0 * w.square().sum(), [0.1])
print(f"bowl {bowl:.3f}, plane {plane:.3f}")
assert abs(bowl - 0.1) < 1e-6
assert plane == 0

# %% [markdown]
# ## Three norms, with and without standardized weights
#
# The same first weights for all. Two batches of 32 images each, and the
# mean over these. The networks stand as they do in training. What a forward
# pass would update, running statistics, is a copy each time, so that every
# gradient is one of the same function.

# %%
SHARES = [0.001, 0.003, 0.01]
BATCHES = 2
variants = {}
for name, options in {
    "BN": {"norm": "bn"},
    "GN": {"norm": "gn"},
    "BCN": {
        "norm": "bcn",
        "variance_around": "running_mean",
        "momentum": 0.01,
    },
}.items():
    variants[name] = options
    variants[f"{name}+WS"] = {**options, "ws": True}
models = {
    name: vgg.build("small", **options, seed=0) for name, options in variants.items()
}


def rough(name):
    """The mean change over the batches, one number a share."""
    model = models[name].train()
    weights = [p for p in model.parameters() if p.dim() == 4]
    buffers = dict(model.named_buffers())
    found = []
    for k in range(BATCHES):
        part = slice(32 * k, 32 * (k + 1))
        x = data.standardize(data.train_images[part])
        y = data.train_labels[part].long()

        def loss(x=x, y=y):
            copies = {n: b.clone() for n, b in buffers.items()}
            return F.cross_entropy(functional_call(model, copies, (x,)), y)

        found.append(changes(weights, loss, SHARES))
    return list(map(mean, zip(*found, strict=True)))


def of_all(measure):
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(models, pool.map(measure, models), strict=True))


# %% tags=["plot"]
def draw(found, when):
    fig, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
    for name in ("BN", "BN+WS", "GN", "GN+WS"):
        look = plotting.METHODS[name].style
        percent = [100 * share for share in SHARES]
        ax.plot(percent, found[name], marker="o", label=name, **look)
    ax.set_xscale("log")
    ax.set_xticks(percent, [f"{p:g}" for p in percent])
    ax.minorticks_off()
    ax.set(xlabel="step, % of the weights' length", ylim=(0, None))
    ax.set(ylabel="change of the gradient")
    fig.legend(loc="outside lower center", ncols=4)
    fig.suptitle(f"Roughness {when}: {data.source}", fontsize=11)
    plotting.show(
        fig,
        f"How much the gradient changes along a step, {when}. Lower is "
        "smoother. Solid lines are with weight standardization, dashed ones "
        "without.",
        f"The change along a step of {SHARES[1]:.1%}: "
        + ", ".join(f"{name} {found[name][1]:.2f}" for name in found)
        + ".",
    )


# %% [markdown]
# ## At the first weights

# %%
first = of_all(rough)
draw(first, "at the first weights")

# %% [markdown]
# ## After 100 steps
#
# Two images a step, 200 in all, one learning rate for all.


# %%
def train_network(name):
    options = {"images": 200, "lr": 0.003, "tests": 1, "progress": False}
    train(models[name], data, batch_size=2, **options)
    return rough(name)


later = of_all(train_network)
draw(later, "after 100 steps")

# %% [markdown]
# All six, along a step of 0.3% of the weights' length:

# %%
print("         first weights     after 100 steps")
print("        plain  with WS    plain  with WS")
for name in ("BN", "GN", "BCN"):
    pairs = [f[n][1] for f in (first, later) for n in (name, f"{name}+WS")]
    print(f"{name:6}" + "   ".join(f"{value:6.2f}" for value in pairs))
assert first["GN+WS"][1] < 0.8 * first["GN"][1]

# %% [markdown]
# ## What came out
#
# A difference of under 5% is called none: with two batches, more would be
# said than is known.


# %% tags=["say"]
def effect(found, norm):
    """Which way standardized weights move the change along a step, and how far."""
    share = found[f"{norm}+WS"][1] / found[norm][1] - 1
    kind = "same" if abs(share) < 0.05 else "smoother" if share < 0 else "rougher"
    return kind, f"{norm} ({share:+.0%})"


def in_words(found):
    effects = [effect(found, norm) for norm in ("BN", "GN", "BCN")]
    parts = []
    for kind, words in {
        "smoother": "smoother for",
        "same": "the same for",
        "rougher": "**rougher** for",
    }.items():
        named = [name for each, name in effects if each == kind]
        if named:
            parts.append(f"{words} {', '.join(named)}")
    return "; ".join(parts), sum(kind == "smoother" for kind, _ in effects)


(at_first, smoother), (at_last, still) = in_words(first), in_words(later)
smoothest = min(later, key=lambda name: later[name][1])
plotting.say(
    f"With standardized weights the step is, at the first weights, {at_first}.",
    f"After 100 steps it is {at_last}.",
    f"That is smoother in {smoother + still} cases of 6.",
    f"The smoothest of all six after 100 steps is {smoothest}.",
)

# %% [markdown]
# ## What this shows, and what not
#
# - **With group norm, at the first weights, it shows.** An `assert` above
#   holds this notebook to it: along a step of 0.3% the gradient
#   changes less with standardized weights, by a fifth at least.
# - **BCN starts as group norm does.** Its estimate begins with a mean of 0
#   and a variance of 1, which changes nothing: only its second half is at
#   work.
# - **What holds at the first weights need not hold later.** Training leaves
#   them within a few steps.
#
# "Standardization lowers the roughness" would be too much to say, then: that
# depends on the norm and on the moment. Nor does this contradict the papers.
# Their inequality is about a bound over all weights; here is one direction
# at two moments, two batches and a small network. What weight
# standardization does for [the accuracy](../results.md) cannot be read off
# this measure.

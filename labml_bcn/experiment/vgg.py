r"""
---
title: A VGG with an open block
summary: >
  The network of the experiments: 3x3 convolutions and pooling, with the
  normalization behind each convolution left to the caller.
---

# A VGG with an open block

To compare normalizations, everything else has to stay the same. A VGG suits
that well: it is a plain stack of convolutions without shortcuts, so no
signal can go around a normalization, and what a bad one does to training
shows at once. (Simonyan and Zisserman, *Very Deep Convolutional Networks
for Large-Scale Image Recognition*, arXiv 1409.1556.)

The network repeats one block: a 3x3 convolution, a normalization and a
ReLU. Here the block is a parameter, a function from two numbers of channels
to a module. The network does not know what is inside.

There are two sizes, with the same code for both:

| name | blocks | convolutions | for |
| --- | --- | --- | --- |
| `"vgg"` | 64, 128, 256, 512, 512 channels | 13 | a long run |
| `"small"` | 32, 64, 128 channels | 6 | half a minute on one core |
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    EstimatedBatchNorm,
    WSConv2d,
)
from labml_bcn.experiment.settings import Settings, require

Block = Callable[[int, int], nn.Module]

BLOCKS = {
    "vgg": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "small": ((32,) * 2, (64,) * 2, (128,) * 2),
}

# What each normalization can be told. Momentum is the rate of running
# statistics, so group norm has none; groups are those of the channel norm,
# so batch norm has none. A process group is for statistics of the batch.
OPTIONS = {
    "bn": {"momentum", "process_group"},
    "gn": {"groups"},
    "bcn": {
        "groups",
        "momentum",
        "estimate",
        "variance_around",
        "process_group",
    },
    "estbn": {"momentum", "variance_around", "process_group"},
    "none": set[str](),
}


class VGG(nn.Module):
    r"""
    ## The network

    Blocks of convolutions, each followed by a pooling that halves height
    and width; then the average over what is left of the image, and a
    linear layer.

    Five poolings leave one pixel of 32 by 32, and the average is that
    pixel, as in labml's network. Three leave 4 by 4.

    **Arguments**

    - `blocks`: for each block, the output channels of its convolutions.
    - `block`: makes one convolution with all that follows it, from the
      numbers of input and output channels. It must keep height and width.
    - `in_channels`: channels of the images.
    - `classes`: how many classes to tell apart.

    **Shape**

    - Input: `[B, in_channels, H, W]`, with `H` and `W` at least 2 to the
      number of blocks.
    - Output: `[B, classes]`, the logits.

    **Raises** `ValueError`: there is no block, or one without convolutions.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[int]],
        block: Block,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if not blocks or not all(blocks):
            raise ValueError(
                "blocks must list at least one number of channels for each"
                f" of one or more blocks, got {blocks!r}; for instance"
                " [[32, 32], [64, 64]]"
            )
        layers: list[nn.Module] = []
        channels = in_channels
        for widths in blocks:
            for width in widths:
                layers.append(block(channels, width))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        r"""
        Return the logits of the images `x`.
        """
        features: Tensor = self.features(x)
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def conv_block(
    norm: str = Settings.norm,
    *,
    ws: bool = Settings.ws,
    groups: int | None = Settings.groups,
    momentum: float | None = Settings.momentum,
    estimate: bool | None = Settings.estimate,
    variance_around: str | None = Settings.variance_around,
    process_group: Any = None,
    separate_relu: bool = False,
) -> Block:
    r"""
    ## The block

    A function that makes convolution, normalization and ReLU.

    The normalization stands before the ReLU, because it decides how many
    values the ReLU lets through: that is where the methods differ. The
    convolution keeps its bias, as in labml's network, although a norm that
    centres each channel takes it out again.

    An option that is left at `None` keeps the layer's own default. One that
    the normalization does not have is refused: a run should never be
    labelled with a setting that had no effect.

    **Arguments**

    - `norm`: `"bn"` batch, `"gn"` group or `"bcn"` batch-channel
      normalization, `"estbn"` for the first half of the last alone, or
      `"none"`.
    - `ws`: standardize the weights of the convolutions.
    - `groups`: of group and batch-channel norm; by default `groups_for`.
    - `momentum`: rate of the running statistics.
    - `estimate`: of batch-channel norm.
    - `variance_around`: of batch-channel norm and of its first half.
    - `process_group`: measure the batches of batch and batch-channel norm
      over the processes of this group.
    - `separate_relu`: keep the ReLU a layer of its own, to watch what goes
      into it. Otherwise batch-channel norm does it on its way out.

    **Returns** a function of the numbers of input and output channels.

    **Raises** `ValueError`: an unknown norm, or an option it does not have.
    """
    require(norm=norm)
    given = {
        "groups": groups,
        "momentum": momentum,
        "estimate": estimate,
        "variance_around": variance_around,
        "process_group": process_group,
    }
    options: dict[str, Any] = {
        name: value for name, value in given.items() if value is not None
    }
    if extra := sorted(options.keys() - OPTIONS[norm]):
        takers = [n for n in OPTIONS if OPTIONS[n].issuperset(extra)]
        raise ValueError(
            f"norm {norm!r} has no {' and no '.join(extra)}; leave it out,"
            f" or choose {' or '.join(takers)}"
        )
    convolution = WSConv2d if ws else nn.Conv2d
    inside = norm == "bcn" and not separate_relu
    if inside:
        options["activation"] = "relu"

    def block(in_channels: int, out_channels: int) -> nn.Module:
        conv = convolution(in_channels, out_channels, 3, padding=1)
        norm_layer = normalization(norm, out_channels, **options)
        if inside:
            return nn.Sequential(conv, norm_layer)
        return nn.Sequential(conv, norm_layer, nn.ReLU())

    return block


def normalization(
    norm: str, channels: int, groups: int | None = None, **options: Any
) -> nn.Module:
    r"""
    ## The normalization

    The layer for a name and a number of channels.

    **Arguments**

    - `norm`: `"bn"`, `"gn"`, `"bcn"`, `"estbn"` or `"none"`.
    - `channels`: of its input.
    - `groups`: if it has groups; by default `groups_for(channels)`.
    - `options`: passed on to the layer.

    **Returns** the layer.

    **Raises** `ValueError`: the groups do not divide the channels, or the
    layer refuses an option.
    """
    if norm == "none":
        return nn.Identity()
    if norm in ("bn", "estbn"):
        layer = BatchNorm if norm == "bn" else EstimatedBatchNorm
        return layer(channels, **options)
    groups = groups_for(channels) if groups is None else groups
    if groups < 1 or channels % groups:
        raise ValueError(
            f"groups must divide the channels of every layer, got"
            f" groups={groups} and {channels} channels; choose a divisor of"
            f" {channels}"
        )
    if norm == "gn":
        return nn.GroupNorm(groups, channels)
    return BatchChannelNorm(channels, groups, **options)


def groups_for(channels: int) -> int:
    r"""
    ### How many groups

    $\min(8, C/4)$: eight groups if that leaves at least four channels to
    each, and fewer if it does not. A group of one or two channels would come
    close to normalizing each channel of each image by itself, and that
    removes how strongly a feature shows in this image.
    """
    return max(1, min(8, channels // 4))


def build(
    model: str = Settings.model,
    norm: str = Settings.norm,
    *,
    groups: int | None = Settings.groups,
    seed: int = Settings.seed,
    **options: Any,
) -> VGG:
    r"""
    ## A network for a run

    The small or the full network with a method, and weights drawn from a
    seed.

    **Arguments**

    - `model`: `"small"`, or `"vgg"` for the full one, which has labml's 32
      groups unless others are given.
    - `norm`, `groups`, `options`: as for `conv_block`.
    - `seed`: of the first weights. The same seed gives the same weights,
      and two methods start from the same ones.

    **Returns** the network, in training mode.

    **Raises** `ValueError`: an unknown model, or what `conv_block` refuses.
    """
    require(model=model, norm=norm, seed=seed)
    if model == "vgg" and groups is None and "groups" in OPTIONS[norm]:
        groups = 32
    block = conv_block(norm, groups=groups, **options)
    # PyTorch draws weights from the global random state. It is put back
    # afterwards, so that building a network changes nobody else's numbers.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return VGG(BLOCKS[model], block)

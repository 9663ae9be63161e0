"""Where checkpoints come from: a row for each implementation."""

from typing import NamedTuple


class Source(NamedTuple):
    """How the checkpoints of a source name their norms, and what its layers compute.

    A row that differs in one respect from another is made by `_replace`: a network of
    PyTorch's batch norms that was trained with weight standardization is
    `SOURCES["batch_norm"]._replace(eps=1e-5)`.
    """

    # Where the two halves of a batch-channel norm stand, below its own name. `None` for
    # the first if all names are those of this package, and for the second if the source
    # has no channel norm.
    batch_norm: str | None = ""
    channel_norm: str | None = None
    # The batch norm's epsilon, if it is fixed, and whether it trained with estimates.
    norm_eps: float | None = None
    estimate: bool | None = None
    # How filters are standardized; `None` if they are not.
    eps: float | None = None
    correction: int = 0
    # Added to the deviation, where `eps` is added to the variance.
    eps_of_deviation: float = 0.0
    # The keys of a gain and an offset for each filter.
    gain: str | None = None
    offset: str | None = None
    # Whether the gain is to be multiplied by `gamma` over the root of the weights of a
    # filter. `gamma` depends on the source's activation.
    scaled: bool = False
    gamma: float = 1.0


# Deviation and epsilon are added, which no epsilon inside of the root repeats. A small
# one comes nearest while the weights go on learning; a gain that is almost 1 makes up
# for the rest.
ON_DEVIATION = Source(eps=1e-10, correction=1, eps_of_deviation=1e-5)
SOURCES = {
    # PyTorch's batch norms, and convolutions as they are.
    "batch_norm": Source(),
    # labml.ai's layers.
    "labml": Source(None, eps=1e-5, correction=1),
    # The papers' authors: the layers that they show, and their ImageNet networks.
    "authors": ON_DEVIATION._replace(batch_norm="bn.", channel_norm="", norm_eps=1e-5),
    "authors_imagenet": Source(
        "pbn.", "", norm_eps=1e-5, estimate=False, eps=1e-5, correction=1
    ),
    # mmcv's ConvWS2d and ConvAWS2d.
    "mmcv_conv_ws": ON_DEVIATION,
    "mmcv_conv_aws": Source(
        eps=1e-5, correction=1, gain="weight_gamma", offset="weight_beta"
    ),
    # timm's StdConv2d and ScaledStdConv2d, and StdConv2d of Big Transfer (BiT).
    "timm_std_conv": Source(eps=1e-6),
    "timm_scaled_std_conv": Source(eps=1e-6, gain="gain", scaled=True),
    "bit": Source(eps=1e-10),
}

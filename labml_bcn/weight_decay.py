"""Weight decay for all parameters but those of norms, and biases."""

import math

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from labml_bcn._checks import require_number
from labml_bcn._modules import require_module
from labml_bcn._norms import NORMS

# Those of PyTorch are batch and instance norms, and these three.
ALL_NORMS = (*NORMS, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(
    model: nn.Module, weight_decay: float
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return the parameters of a model for an optimizer, in two groups.

    Those of norms, and all biases, are not decayed: toward zero is no direction for
    them. Norms are this package's and PyTorch's; a bias is a parameter whose own name
    has "bias" in it. Parameters that do not learn are left out, and one that stands in
    several places is there once. If one of these places exempts it, it is not decayed.

    **Arguments**

    - `model`: the model.
    - `weight_decay`: the decay of all other parameters.

    **Returns** a group that is decayed and one that is not, for instance for
    `torch.optim.AdamW(parameter_groups(model, 0.05), lr=1e-3)`.

    **Raises**

    - `TypeError`: if `model` is no module, or the decay no number.
    - `ValueError`: if no parameter of the model learns, or the decay is negative.
    """
    require_module(model)
    remedy = "1e-4 (SGD) and 0.05 (AdamW) are usual"
    require_number("weight_decay", weight_decay, remedy)
    if not 0 <= weight_decay < math.inf:
        raise ValueError(
            f"weight_decay must be finite and at least 0, got {weight_decay}; {remedy}"
        )
    learning: dict[nn.Parameter, None] = {}
    exempt: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                learning[parameter] = None
                if isinstance(module, ALL_NORMS) or "bias" in name:
                    exempt.add(parameter)
    if not learning:
        raise ValueError(
            f"model must have parameters that learn, got a {type(model).__name__} "
            "without; set requires_grad"
        )
    return [
        {
            "params": [p for p in learning if p not in exempt],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in learning if p in exempt], "weight_decay": 0.0},
    ]

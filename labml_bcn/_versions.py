"""What PyTorch has gained since 2.4, the oldest version that the layers run on.

It is looked for by name, here and nowhere else but for the threads that the kernels
run on (native/library.py).
"""

from collections.abc import Callable, Sequence

import torch


def assume_exporting() -> bool:
    """Take every program that is compiled for one that is exported.

    So it is where PyTorch does not tell the two apart.
    """
    return torch.compiler.is_compiling()


is_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", assume_exporting
)

# Where PyTorch has no such tag no kernel runs, and no operator is called.
FLEXIBLE_LAYOUT: torch.Tag | Sequence[torch.Tag] = getattr(
    torch.Tag, "flexible_layout", ()
)

# The first that lends its threads. The kernels for CUDA were tried on none before it.
OLDEST_WITH_KERNELS = "2.10"

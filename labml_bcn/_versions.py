"""What PyTorch has gained since 2.4, the oldest version that the layers run on.

Each is looked for by name, here and nowhere else.
"""

from collections.abc import Callable

import torch


def assume_exporting() -> bool:
    """Take every program that is compiled for one that is exported.

    This is for versions before 2.7, which cannot tell the two apart.
    """
    return torch.compiler.is_compiling()


is_exporting: Callable[[], bool] = getattr(
    torch.compiler, "is_exporting", assume_exporting
)

# Versions before 2.6 do not know the tag, and treat each operator as one that has it.
FLEXIBLE_LAYOUT = getattr(torch.Tag, "flexible_layout", ())

"""Print what computes on this machine: `python -m labml_bcn.native`.

If the environment variable LABML_BCN_NATIVE is `require`, the exit status is 1 where
the CPU has no native kernels.
"""

import os
import sys

from labml_bcn.native import status

found = status()
print(found)
required = os.environ.get("LABML_BCN_NATIVE") == "require"
sys.exit(required and not found.cpu.native)

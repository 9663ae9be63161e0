"""Print what computes on this machine: `python -m labml_bcn.native`."""

from labml_bcn.native import status

print(status())

"""`python -m facing`."""

import sys

from facing.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m skipcache.benchmarks`, or under torchrun: the command `skipcache`."""

import sys

from skipcache.benchmarks.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m proxy.cloudtrail DATA`: the companion of `serve`."""

import sys

from audit.companion import read_plan
from proxy.cloudtrail.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], read_plan()))

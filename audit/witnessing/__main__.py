"""`python -m audit.witnessing DATA`: has the checkpoints of the instance in DATA witnessed, until its standard input ends."""

import sys

from audit.witnessing.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

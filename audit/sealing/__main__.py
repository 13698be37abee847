"""`python -m audit.sealing DATA`."""

import sys

from audit.companion import read_plan
from audit.sealing.process import main

read_plan()
sys.exit(main(sys.argv[1]))

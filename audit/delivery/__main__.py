"""`python -m audit.delivery DATA`, its plan on standard input."""

import sys

from audit.companion import read_plan
from audit.delivery.process import main

sys.exit(main(sys.argv[1], read_plan()))

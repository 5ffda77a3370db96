"""`python -m launcher`: arguments in, exit code out."""

import sys

from launcher.cli import main

sys.exit(main())

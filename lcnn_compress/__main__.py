"""Run the command line for ``python -m lcnn_compress``."""

import os
import sys

# Python looks into the working folder first: a profile.py there would stand in for its own.
if sys.path and sys.path[0] in ("", os.getcwd()):
    sys.path.append(sys.path.pop(0))

from lcnn_compress.cli.main import main

main()

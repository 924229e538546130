"""Run the command line for ``python -m lcnn_compress``."""

from lcnn_compress.cli.main import main

main()

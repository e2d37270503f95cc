"""Lets `python -m flaxen.cli` stand for `flaxen` where the script is not on the path."""

import sys

from flaxen.cli.main import main

sys.exit(main())

"""Lets `python -m flaxen.cli` stand for `flaxen` where the script is not on the path."""

import sys

# `python -m` puts the working directory before the libraries: a torch.py or json.py that lies there
# would be imported in their place. The script `flaxen` does not put it there either.
if not sys.flags.safe_path:
    del sys.path[0]

from flaxen.cli.start import main

sys.exit(main())

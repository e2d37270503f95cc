"""`python -m flaxen` runs the same as `flaxen`, for when the script is not on the path."""

import sys

# `python -m` puts the working directory before the libraries, so a torch.py or json.py there would
# be imported instead of the library. The script `flaxen` does not search it either.
if not sys.flags.safe_path:
    del sys.path[0]

from flaxen.cli.start import main

sys.exit(main())

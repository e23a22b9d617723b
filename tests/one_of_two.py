"""The command line in one of two processes, the second with an option of its own."""

import os
import sys

from coach_mlx import cli

if os.environ["MLX_RANK"] == "1" and os.environ["ONLY_SECOND"]:
    sys.argv += ["--set", os.environ["ONLY_SECOND"]]
cli.main()

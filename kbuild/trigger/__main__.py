"""``python -m kbuild.trigger JOB``: the background process that background.py starts."""

from __future__ import annotations

import sys

from kbuild.process import run
from kbuild.trigger.background import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run=run))

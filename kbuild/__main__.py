"""``python -m kbuild``: the same as the ``kbuild`` console script."""

from __future__ import annotations

from kbuild.cli import main

if __name__ == "__main__":
    main()

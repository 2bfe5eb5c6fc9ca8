"""``python -m kbuild.serving``: load the model at ``KBUILD_MODEL`` and serve MLflow's scoring protocol.

Environment: ``KBUILD_MODEL`` (default /opt/model), ``KBUILD_HOST`` (0.0.0.0), ``KBUILD_PORT`` (8080),
``KBUILD_LOG_LEVEL`` (warning).
"""

from __future__ import annotations

import sys

from kbuild.errors import KbuildError
from kbuild.serving.settings import Settings


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    try:
        settings = Settings.from_environment()
        from kbuild.serving.app import serve

        serve(settings)
    except KbuildError as error:
        print(f"kbuild.serving: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m kbuild.serving``: load the model at ``KBUILD_MODEL`` and serve MLflow's scoring protocol.

Environment, with defaults: ``KBUILD_MODEL`` (/opt/model), ``KBUILD_HOST`` (0.0.0.0), ``KBUILD_PORT`` (8080),
``KBUILD_WORKERS`` (one a processor), ``KBUILD_THREADS`` (1, predicting in each worker), ``KBUILD_MAX_QUEUE`` (64
requests waiting in each), ``KBUILD_TIMEOUT`` (60 s), ``KBUILD_GRACE`` (30 s to finish after SIGTERM),
``KBUILD_KEEP_ALIVE`` (75 s for an idle connection), ``KBUILD_MAX_BODY_BYTES`` (32 MiB), ``KBUILD_MAX_DEPTH`` (100
levels of JSON), ``KBUILD_MAX_ROWS`` (1,000,000), ``KBUILD_MAX_COLUMNS`` (10,000), ``KBUILD_MAX_BATCH`` (1: each request
by itself) with ``KBUILD_MAX_DELAY_MS`` (0), ``KBUILD_TOKEN`` or ``KBUILD_TOKEN_FILE``, ``KBUILD_TLS_CERT`` with
``KBUILD_TLS_KEY``, ``KBUILD_IMPORT_MLFLOW`` (lazy; background: once ready; eager: before), ``KBUILD_LOG_LEVEL``
(warning), ``KBUILD_ACCESS_LOG`` (0), ``KBUILD_STACK_TRACES`` (0, in error bodies).
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from kbuild.errors import KbuildError
from kbuild.serving.http.supervisor import leave
from kbuild.serving.process.cpus import limit_pools
from kbuild.serving.process.footprint import call_with_room


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    # A sixth of the time until the model is loaded; see server.serve.
    gc.disable()
    limit_pools(os.environ)
    # The kernel drops signals that process 1 of a container does not handle.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    try:
        from kbuild.serving.http.server_settings import Settings

        settings = Settings.from_environment()
        from kbuild.serving.http.server import serve

        return serve(settings)
    except KbuildError as error:
        print(f"kbuild.serving: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    code = call_with_room(main)
    sys.stdout.flush()
    sys.stderr.flush()
    # A prediction that hangs must not keep the process: its thread is never joined.
    os._exit(code)

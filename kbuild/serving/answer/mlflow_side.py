"""MLflow's own server of the model: for every request that the short way does not answer, imported when first needed.

``mlflow.pyfunc.scoring_server``: its ``invocations`` for ``/invocations``, its app for other paths. What its app says
of paths that do not depend on the model is said here, so that a stray request does not import MLflow.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

from kbuild.errors import InvalidModel
from kbuild.serving.answer.fast import FastOutcome, is_own
from kbuild.serving.answer.reply import FAILED, JSON, NOT_LOADED, TEXT, TOO_DEEP, TOO_LONG, Reply
from kbuild.serving.watch.logs import LOGGER, quieten_packages

_log = logging.getLogger(LOGGER)
Send = Callable[[dict[str, Any]], Awaitable[None]]
# The routes of MLflow's app, each with its one method, and FastAPI's own pages.
_ROUTES = {"/ping": "GET", "/health": "GET", "/version": "GET", "/invocations": "POST"}
_PAGES = ("/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
# Seconds. To find out again that MLflow cannot serve the model takes some, and all that wait for it.
_RETRY_AFTER = 60.0
_NOT_FOUND = Reply(status=404, body=b'{"detail":"Not Found"}')
_LONGEST = 100_000  # letters of an error that somebody reads


class MlflowSide:
    """MLflow's app and its way to answer, of the model in ``folder``; may be used from many threads at once.

    Where it does not load, every request that needs it is told so at once, for a minute by ``clock``; then it is tried
    again.
    """

    def __init__(
        self, folder: Path, *, stack_traces: bool, version: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._stack_traces = stack_traces
        self._version = version
        self._clock = clock
        self._failed: float | None = None
        self._lock = threading.Lock()
        self._app: Any = None
        self._answer: Callable[[bytes, str, FastOutcome | None], Reply] | None = None

    @property
    def loaded(self) -> bool:
        """Whether MLflow is imported and has the model."""
        return self._answer is not None

    def load(self) -> Any:
        """Import MLflow and let it load the model, once; returns the PyFuncModel, None where it was loaded before.

        Raises InvalidModel when it does not load.
        """
        with self._lock:
            return self._load()

    def _load(self) -> Any:
        if self._answer is not None:
            return None
        import mlflow.pyfunc
        from mlflow.pyfunc import scoring_server

        try:
            loaded = mlflow.pyfunc.load_model(str(self._folder))
        except Exception as error:  # loading runs the model's code: anything can come out of it
            reason = " ".join(str(error).split())
            raise InvalidModel(
                f"the model in {self._folder} does not load: {type(error).__name__}: {reason}"
            ) from error
        self._app = scoring_server.init(loaded)
        self._answer = make_slow_path(loaded, stack_traces=self._stack_traces)
        quieten_packages(logging.getLevelName(logging.getLogger().level))
        return loaded

    def load_in_background(self) -> None:
        """The same from a thread; a failure is logged, and told to the requests that need MLflow."""
        threading.Thread(target=self._try_to_load, name="mlflow", daemon=True).start()

    def answer(self, body: bytes, content_type: str, known: FastOutcome | None = None) -> Reply:
        """MLflow's reply to ``POST /invocations``; its model is not asked where its outcome is ``known``."""
        if not self._try_to_load() or self._answer is None:
            return NOT_LOADED
        return self._answer(body, content_type, known)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Send) -> None:
        """MLflow's app, as ASGI."""
        reply = None if self.loaded else self._known(scope["path"], scope["method"])
        if reply is None and not await asyncio.to_thread(self._try_to_load):
            reply = NOT_LOADED
        if reply is None:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-length", str(len(reply.body)).encode()), (b"content-type", reply.content_type.encode())]
        headers += [(name.encode(), value.encode()) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _known(self, path: str, method: str) -> Reply | None:
        """What MLflow's app would answer, where that is known without it."""
        allowed = _ROUTES.get(path)
        if path == "/version" and method == "GET":
            return Reply(status=200, body=self._version.encode()) if self._version else None
        if allowed is not None and method != allowed:
            body = b'{"detail":"Method Not Allowed"}'
            return Reply(status=405, body=body, headers=(("allow", allowed),))
        # Starlette redirects between a path with a slash at its end and without one.
        near = f"/{path.strip('/')}"
        return _NOT_FOUND if near not in _ROUTES and near not in _PAGES else None

    def _try_to_load(self) -> bool:
        with self._lock:
            if self._failed is not None and self._clock() < self._failed + _RETRY_AFTER:
                return False
            try:
                self._load()
            except Exception:  # noqa: BLE001  an environment without MLflow must not end the worker
                _log.exception("MLflow cannot serve the model")
                self._failed = self._clock()
                return False
            self._failed = None
            return True


class _Replay:
    """Stands before a model's ``predict`` and gives what is known in its place, thread by thread."""

    def __init__(self, python_model: Any) -> None:
        self._mine = threading.local()
        ask, mine = python_model.predict, self._mine

        @wraps(ask)  # MLflow looks at the signature
        def predict(context: Any, model_input: Any, params: Any = None) -> Any:
            known: FastOutcome | None = getattr(mine, "known", None)
            if known is None:
                return ask(context, model_input, params=params)
            if known.error is not None:
                raise known.error
            return known.value

        python_model.predict = predict

    @contextmanager
    def of(self, known: FastOutcome | None) -> Iterator[None]:
        self._mine.known = known
        try:
            yield
        finally:
            self._mine.known = None


def make_slow_path(loaded: Any, *, stack_traces: bool) -> Callable[..., Reply]:
    """MLflow's ``/invocations`` as a function from body, content type, and what is known already, to its reply.

    The reply leaves out ``stack_trace``, which tells paths and code of the model, unless ``stack_traces``; it is
    logged instead.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    schema = loaded.metadata.get_input_schema()
    # Only of a model of ours is anything known before.
    replay = _Replay(loaded._model_impl.python_model) if is_own(loaded) else None

    def answer(body: bytes, content_type: str, known: FastOutcome | None = None) -> Reply:
        try:
            with nullcontext() if replay is None else replay.of(known):
                made = scoring_server.invocations(body, content_type, loaded, schema)
        except MlflowException as error:
            if len(error.message) > _LONGEST:
                # It repeats what was sent, some of it several times, and would be copied again and again.
                error.message = error.message[:_LONGEST] + "…"
            told = json.loads(error.serialize_as_json())
            # MLflow hides what a model says; what kbuild says of a request is meant for who asked.
            if type(error.__context__).__name__ == "PredictionError":
                told["message"] = f"{error.message} {error.__context__}"
            if trace := told.get("stack_trace"):
                _log.warning("the model failed", extra={"fields": {"traceback": trace}})
                if not stack_traces:
                    del told["stack_trace"]
            return Reply(status=error.get_http_status_code(), body=json.dumps(told).encode())
        except RecursionError:
            return TOO_DEEP
        except ValueError as error:
            # Python refuses to read a whole number of thousands of digits (sys.set_int_max_str_digits).
            if "integer string conversion" in str(error):
                return TOO_LONG
            _log.exception("MLflow's scoring server failed")
            return FAILED
        except Exception:  # noqa: BLE001  MLflow's app answers 500 to whatever else comes out of it
            _log.exception("MLflow's scoring server failed")
            return FAILED
        kind = TEXT if made.mimetype == "text/plain" else JSON
        return Reply(status=made.status, body=made.response.encode(), content_type=kind)

    return answer

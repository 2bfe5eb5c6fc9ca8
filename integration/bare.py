"""A bare ASGI endpoint, what no server of the model can beat by much: ``python bare.py MODEL PORT WORKERS``.

Parses JSON, makes a table of it, calls the inference nodes' plan, writes JSON: it checks nothing, and knows one form of
request. Workers are forked once the model is loaded, each with a socket of its own on the port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any

import mlflow.pyfunc
import pandas as pd
import uvicorn
from orjson import dumps, loads

_model: Any = None


def score(body: bytes) -> bytes:
    """The response to a table in MLflow's ``dataframe_split``."""
    split = loads(body)["dataframe_split"]
    table = pd.DataFrame(dict(zip(split["columns"], zip(*split["data"], strict=True), strict=True)))
    out = _model._plan.run({**_model.loaded_inputs, _model.input_name: table})[_model.output_names[0]]
    names = list(out.columns)
    rows = zip(*[out[name].tolist() for name in names], strict=True)
    return dumps({"predictions": [dict(zip(names, row, strict=True)) for row in rows]})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Every path is ``/invocations``."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message["body"]
        more = message.get("more_body", False)
    # In one of the loop's threads, as MLflow's server does too: it can read one request while another is predicted.
    out = await asyncio.to_thread(score, body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": out})


def main() -> None:
    """Serve until a signal comes."""
    global _model
    _model = mlflow.pyfunc.load_model(sys.argv[1]).unwrap_python_model()
    for _ in range(int(sys.argv[3]) - 1):
        if os.fork() == 0:
            break
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Accepted sockets inherit it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.bind(("127.0.0.1", int(sys.argv[2])))
    config = uvicorn.Config(app, access_log=False, log_level="warning", lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()

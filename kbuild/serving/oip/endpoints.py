"""The protocol's endpoints: what lies at which path, and the answers that are known without asking the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kbuild._version import __version__
from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.answer.reply import TOO_DEEP, Reply
from kbuild.serving.oip.question import InferRequest, QuestionReader
from kbuild.serving.oip.tensors import Refused, declared_type, describe, pack, write_json, write_tensor
from kbuild.serving.pages.about import name_model

LIVE, READY, MODEL_READY, INFER = "live", "ready", "model ready", "infer"
_LENGTH = b"inference-header-content-length"
_BINARY = "application/octet-stream"
_MOST_SAID = 4000
Ask = Callable[[InferRequest], tuple[Reply, bool]]


class OpenInference:
    """One model's endpoints; ``answer`` may run in many threads at once."""

    def __init__(self, facts: Facts, limits: Limits) -> None:
        self._name, self._version = name_model(facts)
        self._limits = limits
        self._reader = QuestionReader(facts, limits)
        outputs = _named(facts.outputs, "output", 1)
        self._types = {name: declared_type(each) for name, each in outputs}
        self._shapes = {name: describe(each, name)["shape"] for name, each in outputs}
        self._server = _reply({"name": "kbuild", "version": __version__, "extensions": ["binary_tensor_data"]})
        self._model = _reply(self._describe(facts))
        self._ready = _reply({"name": self._name, "ready": True})

    def find(self, path: str, method: str) -> Reply | str | None:
        """LIVE, READY, MODEL_READY or INFER, or the answer that is known already; None for no path of the protocol."""
        parts = path.rstrip("/").split("/")[1:]
        if parts[:1] != ["v2"]:
            return None
        found = self._find(parts[1:])
        if isinstance(found, Reply) and found.status != 200:
            return found
        allowed = ("POST",) if found == INFER else ("GET", "HEAD")
        return found if method in allowed else _error(405, "Method Not Allowed", ("allow", ", ".join(allowed)))

    def _find(self, parts: list[str]) -> Reply | str:
        if not parts:
            return self._server
        if parts[0] == "health" and parts[1:] in ([LIVE], [READY]):
            return parts[1]
        if parts[0] != "models" or len(parts) < 2:
            return _error(404, "Not Found")
        name, rest = parts[1], parts[2:]
        if name != self._name:
            return _error(404, f"Model {name} not found: the one of this server is called {self._name}")
        if len(rest) > 1 and rest[0] == "versions":
            if rest[1] != self._version:
                return _error(404, f"Model {name} with version {rest[1]} not found: it has {self._version} here")
            rest = rest[2:]
        known: dict[tuple[str, ...], Reply | str] = {(): self._model, (READY,): MODEL_READY, (INFER,): INFER}
        return known.get(tuple(rest)) or _error(404, "Not Found")

    def tell_health(self, asked: str, reply: Reply) -> Reply:
        """The server's own answer to a probe, as the protocol has it."""
        if reply.status != 200:
            return in_protocol(reply)
        return self._ready if asked == MODEL_READY else _reply({asked: True})

    def read(self, body: bytes, headers: Mapping[bytes, bytes]) -> InferRequest | Reply:
        """A request's body as a question to the model, or what is wrong with it."""
        size = headers.get(_LENGTH, b"%d" % len(body))
        if not size.isdigit() or len(size) > 20 or int(size) > len(body):
            return _error(400, "Inference-Header-Content-Length is not the length of the JSON at the body's start")
        text, binary = body[: int(size)], memoryview(body)[int(size) :]
        if above := self._limits.check_nesting(text):
            return in_protocol(above)
        try:
            question = self._reader.read(text, binary)
            return self._write_empty(question) if question.empty else question
        except RecursionError:
            return in_protocol(TOO_DEEP)
        except Refused as refused:
            return _error(refused.status, str(refused))

    def write(self, reply: Reply, question: InferRequest) -> Reply:
        """The model's answer as the protocol has it."""
        if reply.status != 200:
            return in_protocol(reply)
        return self._write(*self._outputs(json.loads(reply.body)["predictions"]), question)

    def _write_empty(self, question: InferRequest) -> Reply:
        """What the signature says of no rows: the model cannot be asked. Raises Refused where it does not say it."""
        if not self._shapes or any(shape[0] != -1 or -1 in shape[1:] for shape in self._shapes.values()):
            raise Refused("The request has no rows, and the signature does not tell the shape of the answer then")
        outputs = [
            write_tensor(name, [], [0, *(shape[1:] or [1])], self._types[name]) for name, shape in self._shapes.items()
        ]
        return self._write(outputs, _kind(outputs[0]) if len(outputs) == 1 else "dict", question)

    def _write(self, outputs: list[dict[str, Any]], kind: str, question: InferRequest) -> Reply:
        """``kind`` is the content type of them all."""
        if question.outputs is not None:
            by_name = {each["name"]: each for each in outputs}
            if unknown := [name for name in question.outputs if name not in by_name]:
                return _error(400, f"The model has no output {', '.join(unknown)}. It has {', '.join(by_name)}.")
            outputs = [by_name[name] for name in question.outputs]
        version = {"model_version": self._version} if self._version else {}
        given = {"id": question.id} if question.id is not None else {}
        told = {"model_name": self._name, **version, **given, "parameters": {"content_type": kind}}
        packed = b""
        for n, each in enumerate(outputs):
            if question.binary is True or (question.binary and each["name"] in question.binary):
                outputs[n], raw = pack(each)
                packed += raw
        head = write_json({**told, "outputs": outputs}).encode()
        if not question.binary:
            return Reply(status=200, body=head)
        length = (_LENGTH.decode(), str(len(head)))
        return Reply(status=200, body=head + packed, content_type=_BINARY, headers=(length,))

    def answer(self, body: bytes, headers: Mapping[bytes, bytes], ask: Ask) -> tuple[Reply, bool]:
        """Read, ask and write; also whether the short way answered."""
        question = self.read(body, headers)
        if isinstance(question, Reply):
            return question, False
        reply, short = ask(question)
        return self.write(reply, question), short

    def _outputs(self, predictions: Any) -> tuple[list[dict[str, Any]], str]:
        """Outputs and the content type of them all, by what MLflow made of the predictions."""
        if isinstance(predictions, list) and all(isinstance(row, dict) for row in predictions):
            names = list(dict.fromkeys(name for row in predictions for name in row) if predictions else self._types)
            columns = ((name, [row.get(name) for row in predictions]) for name in names)
            return [write_tensor(n, each, [len(each), 1], self._types.get(n)) for n, each in columns], "pd"
        if isinstance(predictions, dict) and all(isinstance(each, list) for each in predictions.values()):
            return [self._array(name, each) for name, each in predictions.items()], "dict"
        # An array has no name of its own; where the signature has one output, that is it.
        name = next(iter(self._types)) if len(self._types) == 1 else "output-1"
        made = self._array(name, predictions if isinstance(predictions, list) else [predictions])
        return [made], _kind(made)

    def _array(self, name: str, values: list[Any]) -> dict[str, Any]:
        shape, flat = [len(values)], values
        while flat and all(isinstance(each, list) for each in flat) and len({*map(len, flat)}) == 1:
            shape.append(len(flat[0]))
            flat = [value for each in flat for value in each]
        return write_tensor(name, flat, shape if len(shape) > 1 else [*shape, 1], self._types.get(name))

    def _describe(self, facts: Facts) -> dict[str, Any]:
        inputs, outputs = (
            [describe(each, name) for name, each in named]
            for named in (_named(facts.inputs, "input", 0), _named(facts.outputs, "output", 1))
        )
        for each in outputs:
            # As answers have it, and MLServer's.
            each["shape"] = each["shape"] if len(each["shape"]) > 1 else [*each["shape"], 1]
        versions = {"versions": [self._version]} if self._version else {}
        told = {"name": self._name, **versions, "platform": "mlflow_pyfunc", "inputs": inputs, "outputs": outputs}
        # With their defaults; the protocol's parameters are texts, numbers or truth values.
        params = {str(each["name"]): each.get("default") for each in facts.params or ()}
        plain = {n: each if isinstance(each, str | int | float) else write_json(each) for n, each in params.items()}
        return {**told, "parameters": plain} if plain else told


def _kind(array: Mapping[str, Any]) -> str:
    """The content type of an answer that is this alone."""
    return "str" if array["datatype"] == "BYTES" else "np"


def _named(columns: Sequence[Mapping[str, Any]] | None, side: str, first: int) -> list[tuple[str, Mapping[str, Any]]]:
    """Columns by the names that requests and answers have: those without one are numbered as MLServer's are."""
    return [(str(each.get("name") or f"{side}-{n}"), each) for n, each in enumerate(columns or (), first)]


def in_protocol(reply: Reply) -> Reply:
    """An error of this server or of MLflow's as the protocol has it: ``{"error": …}``."""
    if reply.status < 400 or reply.body.startswith(b'{"error":'):
        return reply
    try:
        told = json.loads(reply.body)
        message = str(told.get("message", told))
    except (ValueError, AttributeError):
        message = reply.body.decode("utf-8", "replace")
    return _error(reply.status, message, *reply.headers)


def _error(status: int, message: str, *headers: tuple[str, str]) -> Reply:
    # A name in it may be as long as the request.
    told = message if len(message) <= _MOST_SAID else f"{message[:_MOST_SAID]}…"
    return Reply(status=status, body=json.dumps({"error": told}).encode(), headers=headers)


def _reply(value: Any) -> Reply:
    return Reply(status=200, body=json.dumps(value).encode())

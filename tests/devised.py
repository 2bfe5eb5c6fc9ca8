"""More of the corpus in ``disguised``: what does harm by names that models have, and what readers differ over."""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from disguised import Code, body, call, lazily, named, system, whole, word


def made(module: str, name: str, state: bytes) -> bytes:
    """An object of a class that gets a state, and no arguments."""
    return named(module, name) + b")\x81" + state + b"b"


def pairs(**items: bytes) -> bytes:
    return b"}(" + b"".join(word(key) + value for key, value in items.items()) + b"u"


def partial(function: bytes, *arguments: Any) -> bytes:
    return call(named("functools", "partial"), Code(function), *arguments)


def replaced(function: bytes, arguments: bytes) -> bytes:
    """A partial of something harmless, whose state is another call."""
    return partial(named("builtins", "max")) + b"(" + function + arguments + b"}Ntb"


def frozen(inside: bytes) -> bytes:
    """scikit-learn's frozen estimator hands every attribute on; its tags are those that it is told."""
    tags = made("types", "SimpleNamespace", pairs(estimator_type=word("regressor")))
    told = partial(named("builtins", "max"), Code(b"](" + tags + b"e"))
    return made("sklearn.frozen._frozen", "FrozenEstimator", pairs(estimator=inside, __sklearn_tags__=told))


def scorer(method: str) -> bytes:
    score = named("sklearn.metrics._classification", "accuracy_score")
    state = pairs(_score_func=score, _sign=b"K\x01", _kwargs=b"}", _response_method=word(method))
    return made("sklearn.metrics._scorer", "_Scorer", state)


def named_by_models(target: str) -> Iterator[tuple[str, bytes]]:
    """Every name in them but the last one's is one that clean models have."""
    path = call(named("pathlib", "PosixPath"), target)
    cached = named("sklearn.metrics._scorer", "_cached_call")
    yield "method-by-cached-call", whole(call(cached, None, Code(frozen(path)), "write_text", "x"))
    hidden = replaced(scorer("write_text"), b"(" + frozen(path) + word("x") + b"](K\x01et")
    yield "method-by-scorer", whole(lazy(hidden))
    yield "method-by-scorer-at-once", whole(hidden + b")R")
    yield "partial-of-a-state", whole(replaced(named("os", "system"), b"(" + body(f"touch {target}") + b"t") + b")R")


def made_states(target: str = "/nowhere/mark") -> Iterator[tuple[str, bytes]]:
    """States of a frozen estimator whose own tags only a call tells."""
    inside = call(named("pathlib", "PosixPath"), target)
    tags = partial(named("sklearn.utils._tags", "Tags"), "x", None, None)
    added = call(named("_operator", "add"), "__sklearn_", "tags__")
    estimator, key = word("estimator") + inside, word("__sklearn_tags__")
    yield "key-that-is-added", b"}(" + estimator + added + tags + b"u"
    yield "key-of-numpy", b"}(" + estimator + call(named("numpy", "str_"), "__sklearn_tags__") + tags + b"u"
    yield "ordered-dict", call(named("collections", "OrderedDict")) + b"(" + estimator + key + tags + b"u"
    dicts = Code(b"}(" + estimator + b"u"), Code(b"}(" + key + tags + b"u")
    yield "two-dicts", call(named("_operator", "or_"), *dicts)
    yield "bunch", named("sklearn.utils._bunch", "Bunch") + b")\x81(" + estimator + key + tags + b"u"


def computed_names(target: str) -> Iterator[tuple[str, bytes]]:
    """With a constructor that calls what it is given they write a file."""
    score = named("sklearn.metrics._regression", "mean_squared_error")
    writer = call(named("sklearn.metrics._scorer", "_Scorer"), Code(score), 1, {"pos_label": None}, "write_bytes")
    for name, state in made_states(target):
        estimator = made("sklearn.frozen._frozen", "FrozenEstimator", state)
        items = pairs(minimizer=writer, func=estimator, kwargs=pairs(y_true=b"N"))
        chain = made("scipy.optimize._basinhopping", "MinimizerWrapper", items)
        function = named("scipy.optimize._differentiable_functions", "ScalarFunction")
        start, gradient = call(named("numpy", "full"), 2, 1.0), Code(named("numpy", "abs"))
        bounds = (-9.0, 9.0)
        yield name, whole(call(function, Code(chain), Code(start), (), gradient, gradient, None, bounds))


def lazy(function: bytes) -> bytes:
    return call(named("operator", "getitem"), Code(call(named("collections", "defaultdict"), Code(function))), "x")


def file(data: bytes) -> Code:
    return Code(call(named("_io", "BytesIO"), Code(b"B" + struct.pack("<I", len(data)) + data)))


def by_arguments(target: str) -> Iterator[tuple[str, bytes]]:
    touch, python = f"touch {target}", f"open({target!r}, 'w').close()"
    inner = system(touch)
    listed: list[tuple[str, str, tuple[Any, ...]]] = [
        ("codecs", "open", (target, "w")),
        ("numpy", "ndarray.tofile", (Code(call(named("numpy", "ndarray"), (1,))), target)),
        ("numpy", "ndarray.dump", (Code(call(named("numpy", "ndarray"), (1,))), target)),
        ("numpy", "savez", (target,)),
        ("numpy", "load", (file(inner), None, True)),
        ("numpy.lib.format", "read_array", (file(npy(inner)), True)),
        ("numpy.f2py.crackfortran", "myeval", (python,)),
        ("pathlib", "PosixPath.write_text", (Code(call(named("pathlib", "PosixPath"), target)), "x")),
        ("trace", "Trace.runctx", (Code(call(named("trace", "Trace"), 0, 0)), python)),
        ("os", "posix_spawn", ("/usr/bin/touch", ["touch", target], {})),
        ("os", "mkfifo", (target,)),
        ("posix", "mknod", (target,)),
        ("os", "makedirs", (target,)),
        ("shutil", "copy", ("/etc/hostname", target)),
        ("mailbox", "mbox", (target,)),
        ("dbm.dumb", "open", (target,)),
        ("venv", "create", (target,)),
        ("cProfile", "runctx", (python, {}, {}, f"{target}.stats")),
        ("pydoc", "pipepager", ("x", touch)),
        ("pydoc", "tempfilepager", ("x", f"{touch}; true")),
        ("pickle", "_loads", (inner,)),
        ("pandas", "read_pickle", (file(inner),)),
        ("joblib", "load", (file(inner),)),
        ("joblib.memory", "Memory", (target,)),
        ("joblib.backports", "make_memmap", (target, "uint8", "w+", 0, (1,))),
        ("pandas.io.common", "get_handle", (target, "w")),
        ("pyarrow", "OSFile", (target, "w")),
        ("pyarrow.lib", "OSFile", (target, "w")),
        ("sklearn.datasets", "dump_svmlight_file", ([[1.0]], [1.0], target)),
        ("scipy.io", "savemat", (target, {})),
        ("logging.config", "dictConfig", (logging_of(touch),)),
        ("random", "_os.system", (touch,)),
        ("uuid", "os.system", (touch,)),
        ("multiprocessing.pool", "os.mkdir", (target,)),
    ]
    for module, name, arguments in listed:
        yield f"{module}:{name} (devised)", whole(call(named(module, name), *arguments))
    yield "methodcaller", whole(lazily(call(named("operator", "methodcaller"), "touch"), path_of(target)))
    compiled = call(named("builtins", "compile"), python, "x", "exec")
    function = call(named("types", "FunctionType"), Code(compiled), {})
    yield "function-of-code", whole(function + b")R")
    yield "exec-of-code", whole(call(named("builtins", "exec"), Code(compiled)))
    yield (
        "module-dict",
        whole(
            lazily(
                call(
                    named("operator", "getitem"),
                    Code(call(named("builtins", "vars"), Code(call(named("builtins", "__import__"), "os")))),
                    "system",
                ),
                touch,
            )
        ),
    )


def path_of(target: str) -> Code:
    return Code(call(named("pathlib", "PosixPath"), target))


def logging_of(command: str) -> dict[str, Any]:
    handlers = {"a": {"()": "os.system", "command": command}}
    return {"version": 1, "handlers": handlers, "root": {"handlers": ["a"]}}


def npy(data: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def read_otherwise(target: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, loader and data of what one reader refuses, or does not see, and another runs."""
    touch = f"touch {target}"
    run = b"(" + body(touch) + b"tR"
    memo = word("os") + b"\x940" + word("system") + b"\x940h\x00h\x01\x93" + run + b"."
    head, system_ = b"\x80\x04", named("os", "system")
    frame = b"\x95" + struct.pack("<Q", len(memo))
    yield "nested-frame", "pickle", head + b"\x95" + struct.pack("<Q", len(memo) + 11) + b"N0" + frame + memo
    longer = head + b"\x95" + struct.pack("<Q", 10**9) + memo
    yield "frame-longer-than-the-file", "python", longer
    yield "frame-longer-than-the-file-in-joblib", "joblib", longer
    yield "list-for-arguments", "python", head + system_ + body([touch]) + b"R."
    yield "names-in-the-memo-after-junk", "at-64", b"\xff\xfejunk\x00\x00" * 8 + memo
    yield "no-header", "pickle", memo
    yield "escaped-names", "pickle", head + b"V\\u006f\\u0073\nV\\u0073ystem\n\x93" + run + b"."
    yield "escaped-text", "pickle", b"(S'\\x74ouch " + target.encode() + b"'\nios\nsystem\n."
    yield "put-over-put", "pickle", b"\x80\x02Nq\x000cos\nsystem\nq\x000h\x00" + run + b"."
    yield "text-memo", "pickle", b"cos\nsystem\np9\n0g9\n(V" + touch.encode() + b"\ntR."
    yield "long-memo", "pickle", b"\x80\x02cos\nsystem\nr\xff\x00\x00\x000j\xff\x00\x00\x00" + run + b"."
    yield "renamed-of-python-2", "pickle", b"ccommands\ngetoutput\n(V" + touch.encode() + b"\ntR."
    name = named("os", "system")
    for key, code in (("append", b"a"), ("__setstate__", b"b")):
        space = made("types", "SimpleNamespace", pairs(**{key: name}))
        yield (
            f"{key}-calls",
            "pickle",
            whole(space + word(touch) + code),
        )
    yield "add-calls", "pickle", whole(made("types", "SimpleNamespace", pairs(add=name)) + b"(" + word(touch) + b"\x90")
    yield "proto-in-the-middle", "pickle", head + b"\x80\x00\x80\x05" + memo
    eight = b"\x8d" + struct.pack("<Q", 2) + b"os\x8d" + struct.pack("<Q", 6) + b"system"
    yield "binunicode8", "pickle", head + eight + b"\x93" + run + b"."
    yield "popped-mark", "pickle", head + b"((N1" + memo
    yield "dup", "pickle", head + system_ + b"20" + run + b"."
    whole_ = head + memo
    yield "joblibs-oldest-format", "joblib-file", b"ZF" + hex(len(whole_)).encode().ljust(19) + zlib.compress(whole_)
    yield "gzip-after-junk", "gzip-at-64", b"junk" * 16 + gzip.compress(whole_)
    lines = base64.encodebytes(head + b"N0" * 60 + memo)
    yield "base64-in-lines", "mime", lines
    yield "base64-in-lines-of-json", "base64", json.dumps({"model": lines.decode()}).encode()
    yield "hexadecimal", "hex", json.dumps({"model": whole_.hex()}).encode()
    yield "safetensors-too", "pickle", polyglot(whole_)
    yield "zip-of-two-with-one-name", "zip-last", two_members(pickle.dumps(1), whole_)


def two_members(*contents: bytes) -> bytes:
    made_of = io.BytesIO()
    with zipfile.ZipFile(made_of, "w") as archive:
        for data in contents:
            with archive.open(zipfile.ZipInfo(f"{len(archive.filelist)}/data.pkl"), "w") as member:
                member.write(data)
    return made_of.getvalue()


def polyglot(code: bytes) -> bytes:
    """safetensors to its last byte. pickle takes the header's size for a text's, and steps through the header."""
    length = 40
    size = ord("X") + (length << 8)
    header = b'{"__metadata__":{"a":"'
    header += b" " * (length - 3 - len(header))
    tail = b'"}},"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'.replace(b'"}},', b'"},')
    tensor = b"0" + code
    tail = tail % (len(tensor), len(tensor))
    while size - len(header) > 257:
        header += b"C~" + b" " * 126 + b"0"  # SHORT_BINBYTES and POP
    while size - len(header) > 128:
        header += b"N0"
    rest = size - len(header) - 2
    header += b"C" + bytes([rest]) + b" " * (rest - len(tail)) + tail
    return struct.pack("<Q", size) + header + tensor


def devised(target: str) -> Iterator[tuple[str, str, bytes]]:
    """Name, loader and data."""
    for name, data in (*named_by_models(target), *computed_names(target), *by_arguments(target)):
        yield name, "pickle", data
    yield from read_otherwise(target)

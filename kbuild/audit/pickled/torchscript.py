"""What the code beside a TorchScript model does: source in Python's grammar, which torch's own interpreter runs.

"TorchScript models should be treated the same way as locally executable code from an unknown source" (PyTorch's
SECURITY.md): they import nothing, but operators of torch write files, and those of other libraries do anything. So
operators count by their namespace and name: those of tensors compute.
Format: torch/csrc/jit/docs/serialization.md; names of operators: ATen's native_functions.yaml, and runtime/register_*.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

SOURCE = re.compile(r"!(?:.*/)?code/.*\.py")
"""Names of members of an archive that torch takes for a model's code."""
CONSTANTS = re.compile(rb"(?:constants|data)\.pkl")
# Of ATen: one maps a file into memory and may make it, one writes any value to a file.
_FILES = frozenset({"from_file", "save"})
# Of prim: they have another machine compute.
_ELSEWHERE = frozenset({"rpc_async", "rpc_remote", "rpc_sync"})
_NAMESPACES = frozenset({"aten", "prim", "quantized"})
_CLASSES = re.compile(r"__torch__\.torch\.classes\.(?!quantized\.|xnnpack\.)(\w+)")
# In bytecode, and in programs of torch.export: operators by their full names.
_NAMED = re.compile(rb"aten(?:::|\.)(from_file|save)")


def names_files(data: bytes) -> Iterator[str]:
    """What bytecode and exported programs in these bytes call that opens files."""
    for name in sorted({each.decode() for each in _NAMED.findall(data)}):
        yield f"calls torch.{name}, which opens files"


def calls_of(source: bytes) -> Iterator[str]:
    """What its code calls beside what computes from tensors, each once, told as a problem. Raises ValueError for what
    cannot be read."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"its code cannot be read: {error}") from error
    told = dict.fromkeys(f"uses the class {name} of another library" for name in _CLASSES.findall(source.decode()))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            problem = _problem(node)
            if problem is not None:
                told[problem] = None
        elif isinstance(node, ast.Name) and node.id in _ELSEWHERE:
            told[f"calls {node.id}, which has another machine compute"] = None
    yield from told


def _problem(node: ast.Attribute) -> str | None:
    if node.attr in _FILES:
        return f"calls torch.{node.attr}, which opens files"  # of a tensor it is called as a method
    if node.attr in _ELSEWHERE:
        return f"calls {node.attr}, which has another machine compute"
    inner = node.value
    of_ops = isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "ops"
    if of_ops and isinstance(inner, ast.Attribute) and inner.attr not in _NAMESPACES:
        return f"calls {inner.attr}.{node.attr} of another library"
    return None

"""What models that are programs of their library's own do beside computing: TorchScript and graphs of TensorFlow.

TorchScript is source in Python's grammar, which torch's own interpreter runs. "TorchScript models should be treated the
same way as locally executable code from an unknown source" (PyTorch's SECURITY.md): they import nothing, but operators
of torch write files, and those of other libraries do anything. So operators count by their namespace and name: those of
tensors compute.
"TensorFlow models are programs" too (its SECURITY.md). They are judged by a list of known operations: TensorFlow has
more than 1,500, plugins add others. ``SaveV2`` and ``RestoreV2`` are in every saved model and do not count.
Formats: torch/csrc/jit/docs/serialization.md; names of operators: ATen's native_functions.yaml, and runtime/register_*;
TensorFlow's ``node_def.proto`` (nodes name their operation in field 2) and ``core/ops/*.cc``.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Set

from kbuild.audit.pickled.json_texts import unescaped

SOURCE = re.compile(r"!(?:.*/)?code/.*\.py", re.DOTALL)
"""Names of members of an archive that torch takes for a model's code."""
CONSTANTS = re.compile(rb"(?:constants|data)\.pkl")
PACKAGED = re.compile(rb"\.data/(?:extern_modules|python_version)")
"""Members that torch.package writes beside modules, which its importer runs in the place of installed ones."""
# Of ATen: one maps a file into memory and may make it, one writes any value to a file.
_FILES = frozenset({"from_file", "save"})
# Of prim: they have another machine compute.
_ELSEWHERE = frozenset({"rpc_async", "rpc_remote", "rpc_sync"})
_NAMESPACES = frozenset({"aten", "prim", "quantized"})
_CLASSES = re.compile(r"__torch__\.torch\.classes\.(?!quantized\.|xnnpack\.)(\w+)")
# In bytecode, and in programs of torch.export: operators by their full names.
_NAMED = re.compile(rb"aten(?:::|\.)(from_file|save)")
# In programs of torch.export: what torch itself has.
_OTHERS = re.compile(
    rb'"target"\s*:\s*"torch\.ops\.(?!(?:aten|prims?|quantized|quantized_decomposed|higher_order|profiler|rngprims'
    rb"|mkldnn|onednn|sym|c10d_functional|_c10d_functional|symm_mem|inductor)\.)(\w+\.\w+)"
)
_CALLING = "PyFunc PyFuncStateless EagerPyFunc"
_ASKING = "RemoteCall RpcCall TryRpc DataServiceDataset DataServiceDatasetV2 DataServiceDatasetV3 DataServiceDatasetV4"
_OPENING = """
ReadFile WriteFile MatchingFiles ImmutableConst PrintV2 SaveSlices FileSystemSetConfiguration
SaveDataset SaveDatasetV2 LoadDataset SnapshotDataset SnapshotDatasetV2 CacheDataset CacheDatasetV2
SnapshotDatasetReader SnapshotNestedDatasetReader DatasetToTFRecord ExperimentalDatasetToTFRecord
TextLineDataset FixedLengthRecordDataset FixedLengthRecordDatasetV2 TFRecordDataset TFRecordDatasetV2
CSVDataset CSVDatasetV2 ExperimentalCSVDataset LMDBDataset ExperimentalLMDBDataset SqlDataset ExperimentalSqlDataset
MatchingFilesDataset ExperimentalMatchingFilesDataset
TextLineReader TextLineReaderV2 FixedLengthRecordReader FixedLengthRecordReaderV2 TFRecordReader TFRecordReaderV2
WholeFileReader WholeFileReaderV2 LMDBReader
InitializeTableFromTextFile InitializeTableFromTextFileV2 GenerateVocabRemapping LoadAndRemapMatrix
CreateSummaryFileWriter CreateSummaryDbWriter DebugIdentity DebugIdentityV2 DebugIdentityV3 DebugNanCount
DebugNumericSummary
"""
_DOES = {
    **dict.fromkeys(_OPENING.split(), "opens files"),
    **dict.fromkeys(_CALLING.split(), "calls Python"),
    **dict.fromkeys(_ASKING.split(), "asks another machine"),
}
# Of TensorFlow, with their lengths, as protocol buffers write texts; the second, as their text format does.
_NODE = re.compile(b"\x12(" + b"|".join(re.escape(bytes([len(each)]) + each.encode()) for each in _DOES) + b")")
_NODE_IN_TEXT = re.compile(rb"\bop\s*:\s*[\"'](" + "|".join(_DOES).encode() + rb")[\"']")


def runs_package(data: bytes, sources: int) -> Iterator[str]:
    """What an archive of torch.package with so many sources does (PyTorch's docs, "torch.package")."""
    if sources and PACKAGED.search(data) is not None:
        yield f"runs Python that lies in it, in {sources} file{'s' * (sources > 1)}, whatever the names of its modules"


def names_files(data: bytes) -> Iterator[str]:
    """What bytecode and exported programs in these bytes call that opens files, and the latter of other libraries."""
    text = unescaped(data)
    for name in sorted({each.decode() for each in _NAMED.findall(text)}):
        yield f"calls torch.{name}, which opens files"
    for name in sorted({each.decode() for each in _OTHERS.findall(text)}):
        yield f"calls {name} of another library"


def calls_of(source: bytes) -> Iterator[str]:
    """What its code calls beside what computes from tensors, each once, told as a problem. Raises ValueError for what
    cannot be read."""
    try:
        text = source.decode()
        tree = ast.parse(text)  # in bytes a comment could name another coding; torch knows none
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"its code cannot be read: {error}") from error
    told = dict.fromkeys(f"uses the class {name} of another library" for name in _CLASSES.findall(text))
    own = set(_of_modules(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in own:
            problem = _problem(node)
            if problem is not None:
                told[problem] = None
        elif isinstance(node, ast.Name) and node.id in _ELSEWHERE:
            told[f"calls {node.id}, which has another machine compute"] = None
    yield from told


def _of_modules(tree: ast.Module) -> Iterator[ast.Attribute]:
    """The attributes of the model's own modules, by the types that its classes state: what is called there is code
    beside this. torch writes a part of a module to a variable before it calls it."""
    for kind in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)):
        stated = (each for each in kind.body if isinstance(each, ast.AnnAssign) and _is_module(each.annotation))
        held = {each.target.id for each in stated if isinstance(each.target, ast.Name)}
        for function in (each for each in kind.body if isinstance(each, ast.FunctionDef)):
            nodes = list(ast.walk(function))
            names = (each for each in nodes if isinstance(each, ast.Name))
            stored = Counter(each.id for each in names if isinstance(each.ctx, ast.Store))
            arguments = function.args.args
            known = {each.arg for each in arguments if _is_module(each.annotation) and not stored[each.arg]}
            selves = known & {arguments[0].arg} if arguments else set()

            def is_part(value: ast.expr, selves: Set[str] = selves, held: Set[str] = held) -> bool:
                of = value.value if isinstance(value, ast.Attribute) and value.attr in held else None
                return isinstance(of, ast.Name) and of.id in selves

            given = Counter(
                each.targets[0].id
                for each in nodes
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name) and is_part(each.value)
            )
            known |= {name for name, times in given.items() if times == stored[name]}
            for each in nodes:
                if isinstance(each, ast.Attribute):
                    of = each.value
                    if is_part(of) or (isinstance(of, ast.Name) and of.id in known):
                        yield each


def _is_module(annotation: ast.expr | None) -> bool:
    names: list[str] = []
    while isinstance(annotation, ast.Attribute):
        names.append(annotation.attr)
        annotation = annotation.value
    is_script = isinstance(annotation, ast.Name) and annotation.id == "__torch__" and bool(names)
    return is_script and names[:-3:-1] != ["torch", "classes"]


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


def graph_calls(data: bytes) -> Iterator[str]:
    """What a graph of TensorFlow in these bytes does beside computing, told as problems."""
    found = {each[1:] for each in _NODE.findall(data)} | set(_NODE_IN_TEXT.findall(data))
    for name in sorted(each.decode() for each in found):
        yield f"runs {name} of TensorFlow, which {_DOES[name]}"

"""What the pickles of data name: an allow-list of (module, name), of the standard library, numpy and pandas.

Everything here builds an object from what it is given, or computes; nothing opens, imports, runs or looks anything up.
A name with a dot is none of them: it is taken apart by the unpickler, and leads from any module to any other
(``logging``, ``os.system``). Classes of further libraries are looked up in their own files (``libraries``).
"""

from __future__ import annotations

import builtins
import re
import sys
from functools import cache, lru_cache
from importlib.util import find_spec
from pkgutil import iter_modules


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BUILTINS = _names(
    "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple type "
    "memoryview abs all any chr divmod enumerate hash len max min ord pow repr reversed round sorted sum "
    "zip Ellipsis NotImplemented"
) | {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)}
_MATH = (
    "abs add and_ concat contains countOf eq floordiv ge getitem gt index inv invert is_ is_not le lshift lt "
    "matmul mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor itemgetter iadd isub imul itruediv"
)
_NUMBERS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist erf erfc exp exp2 expm1 fabs "
    "factorial floor fmod frexp fsum gamma gcd hypot isclose isfinite isinf isnan isqrt lcm ldexp lgamma log "
    "log10 log1p "
    "log2 modf nextafter perm pow prod radians remainder sin sinh sqrt tan tanh trunc ulp"
)
_TYPING = (
    "Any Optional Union List Dict Tuple Set FrozenSet Callable Iterable Sequence Mapping Literal Type TypeVar Generic"
)
_LIBRARY: dict[str, str] = {
    "_codecs": "encode",
    # Bytes in memory.
    "_io": "BytesIO",
    "array": "array _array_reconstructor",
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque",
    "copy_reg": "_reconstructor",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "datetime": "date datetime time timedelta timezone tzinfo",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "partial",
    "inspect": "Parameter Signature _ParameterKind _empty",
    "ipaddress": "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network",
    "itertools": "count repeat",
    "logging": "getLogger",
    "math": _NUMBERS,
    "numbers": "Complex Integral Number Rational Real",
    "operator": _MATH,
    "_operator": _MATH,
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "re": "_compile",
    "statistics": "NormalDist mean median mode stdev variance fmean",
    "string": "Template",
    "_thread": "RLock",
    "threading": "RLock",
    "time": "struct_time",
    "types": "GenericAlias MappingProxyType NoneType SimpleNamespace",
    "typing": _TYPING,
    "uuid": "SafeUUID UUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    "zoneinfo._zoneinfo": "ZoneInfo ZoneInfo._unpickle",
    # joblib's own arrays: the bytes follow in the same file.
    "joblib.numpy_pickle": "NumpyArrayWrapper",
    "kbuild.training.pyfunc": "KedroPipelineModel",
    # What that holds where Kedro's runner is asked for.
    "kedro.pipeline.node": "Node",
    # What a model of Python notes of its own hints, and what one of a notebook is a class of.
    "mlflow.models.signature": "_TypeHints",
    "mlflow.pyfunc.model": "PythonModel",
    # pandas' columns of text and of Arrow's types.
    "pyarrow.lib": "Field Schema _reconstruct_record_batch _reconstruct_table _restore_array binary chunked_array "
    "decimal128 decimal256 decimal32 decimal64 dictionary duration field large_list large_list_view list_ list_view "
    "map_ py_buffer run_end_encoded schema struct time32 time64 timestamp type_for_alias",
    "pandas.api.typing": "FrozenList",
    "pytz": "_UTC _p",
    # TorchScript's: they return what they are given.
    "torch.jit._pickle": "build_boollist build_doublelist build_intlist build_tensor_from_id build_tensorlist "
    "restore_type_tag",
    "dateutil.tz.tz": "tzutc tzlocal tzoffset",
}

_UFUNCS = (
    "abs absolute add all amax amin any arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin "
    "argsort around "
    "average bitwise_and bitwise_or bitwise_xor cbrt ceil clip concatenate conj copysign corrcoef cos cosh "
    "count_nonzero "
    "cumprod cumsum deg2rad diff digitize divide dot equal exp exp2 expm1 eye fabs flip float_power floor "
    "floor_divide fmax "
    "fmin fmod full full_like greater greater_equal heaviside histogram hypot identity interp invert isclose "
    "isfinite isinf "
    "isnan less less_equal linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor"
    " matmul "
    "max maximum mean median min minimum mod multiply nan_to_num nanmax nanmean nanmedian nanmin nanpercentile "
    "nanquantile "
    "nanstd nansum nanvar negative nonzero not_equal ones ones_like percentile positive power prod ptp quantile "
    "rad2deg "
    "ravel reciprocal remainder reshape rint round searchsorted sign sin sinh sort sqrt square squeeze stack std "
    "subtract "
    "sum take tan tanh transpose tril triu true_divide trunc unique var vstack hstack where zeros zeros_like"
)
_SCALARS = (
    "bool bool_ bytes_ str_ void object_ generic number integer signedinteger unsignedinteger inexact floating "
    "complexfloating flexible character byte ubyte short ushort intc uintc int_ uint intp uintp longlong "
    "ulonglong int8 "
    "int16 int32 int64 uint8 uint16 uint32 uint64 half single double longdouble float16 float32 float64 float128 "
    "csingle "
    "cdouble clongdouble complex64 complex128 complex256 datetime64 timedelta64 float_ complex_ long ulong"
)
_NUMPY: tuple[tuple[str, str], ...] = (
    (r"numpy", f"ndarray dtype matrix recarray record poly1d ma {_SCALARS} {_UFUNCS}".replace(" ma ", " ")),
    (r"numpy\._?core\.multiarray|numpy\._core\._multiarray_umath", "_reconstruct scalar ndarray dtype"),
    (r"numpy\._?core\.numeric", "_frombuffer"),
    (r"numpy\._?core\.records|numpy\.rec", "recarray record"),
    (r"numpy\._?core\._methods", "_mean _sum _amax _amin _std _var"),
    (r"numpy\._?core\.fromnumeric", _UFUNCS),
    (r"numpy\.lib\.(_?function_base|_function_base_impl|_nanfunctions_impl|nanfunctions)(_impl)?", _UFUNCS),
    (r"numpy\.ma(\.core)?", "MaskedArray MaskedConstant _mareconstruct mvoid"),
    (r"numpy\.matrixlib\.defmatrix", "matrix"),
    (r"numpy\.lib\.(_?polynomial|_polynomial_impl)", "poly1d"),
    (r"numpy\.polynomial\.\w+", "Polynomial Chebyshev Legendre Hermite HermiteE Laguerre"),
    (r"numpy\.dtypes", r"\w+DType"),
    # They turn what they are given into a dtype.
    (r"numpy\._core\._internal", "_convert_to_stringdtype_kwargs"),
    (r"numpy\.random\._pickle", "__bit_generator_ctor __generator_ctor __randomstate_ctor"),
    (r"numpy\.random\.(mtrand|_generator|_mt19937|_pcg64|_philox|_sfc64|bit_generator)", r"[A-Z]\w+"),
    (r"numpy\.random\.bit_generator", "SeedSequence __pyx_unpickle_SeedSequence"),
)
_CLASS = r"_?[A-Z]\w*"
# Steps of pipelines: they compute from tables, and call nothing that they are given.
_OF_TABLES = (
    "concat cut factorize get_dummies isna isnull melt merge merge_asof notna notnull qcut to_datetime to_numeric "
    "to_timedelta unique wide_to_long"
)
_PANDAS: tuple[tuple[str, str], ...] = (
    (
        r"pandas",
        "Categorical CategoricalDtype CategoricalIndex DataFrame DateOffset DatetimeIndex DatetimeTZDtype "
        "Float32Dtype "
        "Float64Dtype Grouper Index Int16Dtype Int32Dtype Int64Dtype Int8Dtype Interval IntervalDtype IntervalIndex "
        "MultiIndex NamedAgg Period PeriodDtype PeriodIndex RangeIndex Series SparseDtype StringDtype Timedelta "
        "TimedeltaIndex Timestamp UInt16Dtype UInt32Dtype UInt64Dtype UInt8Dtype BooleanDtype ArrowDtype "
        "NA",
    ),
    (r"pandas|pandas\.core\.(reshape|tools|dtypes)\.\w+|pandas\.core\.algorithms", _OF_TABLES),
    (r"pandas\.core\.(frame|series)", "DataFrame Series"),
    (r"pandas\.core\.indexes\.\w+|pandas\.indexes\.\w+", f"{_CLASS} _new_\\w+"),
    (r"pandas\.core\.internals(\.\w+)?", f"{_CLASS} new_block _unpickle_block"),
    (r"pandas\.core\.arrays(\.\w+){0,2}|pandas\.arrays", _CLASS),
    (r"pandas\.core\.dtypes\.(dtypes|base)", _CLASS),
    (r"pandas\._libs\.(internals|arrays|missing|interval|sparse)", f"{_CLASS} _unpickle_block __pyx_unpickle_\\w+"),
    (r"pandas\._libs\.tslibs\.\w+", f"{_CLASS} _\\w*unpickle\\w* __pyx_unpickle_\\w+ __\\w*unpickle\\w*"),
    (r"pandas\.tseries\.offsets", _CLASS),
)
# They load the file that they are given: what kbuild's own model names to load its inputs, by a text.
_DATASETS = (
    r"(kedro_datasets(_experimental)?|kedro\.extras\.datasets|kbuild\.datasets)(\.\w+)+",
    r"[A-Z]\w*Data[sS]et",
)
_RULES = [(re.compile(module), frozenset(names.split())) for module, names in (*_NUMPY, *_PANDAS, _DATASETS)]


def is_ordinary(module: str, name: str) -> bool:
    """Whether data is made of it."""
    if module in ("builtins", "__builtin__"):
        return name in _BUILTINS or (module == "__builtin__" and name in ("unicode", "long", "xrange", "basestring"))
    if module == "exceptions":  # Python 2's, which the oldest protocols name
        return name in _BUILTINS and name[0].isupper()
    if name in _LIBRARY.get(module, "").split():
        return True
    return any(
        rule.fullmatch(module)
        and (name in names or any(_matches(each, name) for each in names if "\\" in each or "[" in each))
        for rule, names in _RULES
    )


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None


OF_LIBRARIES = {
    "polars": frozenset({"_restore_dataframe"}),
    "torch._utils": _names(
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor "
        "_rebuild_device_tensor_from_numpy _rebuild_meta_tensor_no_storage _rebuild_nested_tensor"
    ),
    "torch.distributed.checkpoint.filesystem": _names("_StorageInfo"),
    "torch.distributed.checkpoint.metadata": _names(
        "BytesStorageMetadata ChunkStorageMetadata Metadata MetadataIndex StorageMeta TensorProperties "
        "TensorStorageMetadata _MEM_FORMAT_ENCODING"
    ),
    "torch.serialization": _names("_get_layout"),
    "torch.utils.data.dataset": _names("ConcatDataset Subset TensorDataset"),
    # What it is given is judged as a file of its own.
    "torch.storage": _names("_load_from_bytes TypedStorage UntypedStorage"),
    # Its arguments are judged as the call that it makes of them.
    "torch._tensor": _names("_rebuild_from_type_v2"),
    "torch.nn.functional": _names("relu gelu"),
    "torch._C": _names("Generator"),
    "torch._C._nn": _names("gelu"),
    "statsmodels.tools.tools": _names("Bunch"),
    "torch": _names(
        "BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage "
        "DoubleStorage FloatStorage HalfStorage IntStorage LongStorage ShortStorage UntypedStorage Size "
        "QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage "
        "ScriptObject Tensor device dtype float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 "
        "uint16 uint32 uint64 bool complex32 complex64 complex128 float8_e4m3fn float8_e5m2 float8_e4m3fnuz "
        "float8_e5m2fnuz float8_e8m0fnu qint8 quint8 qint32 quint4x2 quint2x4 per_tensor_affine per_channel_affine "
        "per_tensor_symmetric per_channel_symmetric per_channel_affine_float_qparams"
    ),
    "sklearn.cluster._kmeans": _names("_kmeans_single_lloyd _kmeans_single_elkan"),
    "sklearn.metrics._scorer": _names("_passthrough_scorer"),
    # What interp1d holds is a method of its own.
    "scipy.interpolate._interpolate": _names(
        "interp1d._call_linear interp1d._call_linear_np interp1d._call_nearest interp1d._call_previousnext "
        "interp1d._call_spline interp1d._call_nan_spline"
    ),
    "scipy._lib.array_api_compat.numpy._aliases": _names("asarray"),
    "scipy.special": _names("expit logit erf erfc gamma gammaln logsumexp softmax boxcox inv_boxcox log1p expm1"),
}
"""What pickles name of further libraries by its name alone: functions that put their objects together, and the like."""


# What models hold and call when they answer: a pickle of data names it, and never calls it. It would call methods of
# what it is given.
_FUNCTIONS: tuple[tuple[str, str], ...] = (
    (r"builtins|__builtin__", r"\w+\.\w+ abs all any chr divmod hash len max min ord pow repr round sorted sum"),
    (r"_?operator", _MATH.replace(" itemgetter", "")),
    (r"math", _NUMBERS),
    (r"statistics", "mean median mode stdev variance fmean"),
    (r"numpy(\._?core\.\w+|\.lib\.\w+|\.linalg)?", f"{_UFUNCS} _mean _sum _amax _amin _std _var"),
    (r"pandas(\.core\.\w+){0,2}(\.\w+)?", _OF_TABLES),
    (r"scipy\.special(\.\w+)?", r"[a-z]\w*"),
    (r"sklearn\.(metrics|feature_selection)\.[\w.]+", r"(?!newObj)[a-z]\w*"),
    (r"torch\.nn\.functional", r"\w+"),
)
_NEVER_CALLED = [(re.compile(module), re.compile("|".join(names.split()))) for module, names in _FUNCTIONS]


def is_never_called(module: str, name: str) -> bool:
    """Whether it is a function that data names, and never calls."""
    return any(of.fullmatch(module) and names.fullmatch(name) for of, names in _NEVER_CALLED)


# Methods that models hold, which only compute from the text that they are given: pickle writes them, and bound ones,
# as calls of getattr (CPython's descrobject.c and methodobject.c, ``__reduce__``). str.format is none: it reads
# attributes.
_OF_TEXTS = _names(
    "capitalize casefold isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle isupper lower "
    "lstrip rsplit rstrip split splitlines strip swapcase title upper"
)
_OF_TYPES = {"str": _OF_TEXTS, "unicode": _OF_TEXTS, "bytes": _OF_TEXTS, "dict": _names("fromkeys")}
_OF_PATTERNS = _names("findall finditer fullmatch match search split")
_ANSWERS = _names(
    "decision_function fit_predict inverse_transform predict predict_log_proba predict_proba score transform"
)


def is_method(module: str, kind: str, name: object) -> bool:
    """Whether it is such a method, of a built-in type or of what ``re._compile`` returns."""
    known = _OF_TYPES.get(kind, frozenset()) if module in ("builtins", "__builtin__") else frozenset()
    return type(name) is str and name in (_OF_PATTERNS if (module, kind) == ("re", "_compile") else known)


def is_answer(name: str) -> bool:
    """Whether it is a method by which models of scikit-learn's kind answer."""
    return name in _ANSWERS


@cache
def _packages() -> frozenset[str]:
    return frozenset(sys.stdlib_module_names | {each.name for each in iter_modules()})


def is_package(name: str) -> bool:
    """As ``is_importable``, of any number of names; those that only a finder of its own knows are none."""
    return name in _packages()


@lru_cache(maxsize=4096)
def is_importable(module: str) -> bool:
    """Whether there is such a package here, by the first part of the name."""
    root = module.partition(".")[0]
    try:
        return root in sys.stdlib_module_names or find_spec(root) is not None
    except (ValueError, ImportError):
        return False

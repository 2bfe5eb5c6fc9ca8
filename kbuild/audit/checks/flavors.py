"""What MLflow's flavors import, call or fetch by names that stand in texts of the model, beside its pickles.

MLflow 3.17: ``mlflow/xgboost`` calls ``model_class``, ``mlflow/tensorflow`` imports ``keras_module``, and
``mlflow/pytorch`` the module for pickles that a file of its own names. ``mlflow/transformers/model_io.py`` and
``mlflow/sentence_transformers`` load configurations with ``trust_remote_code``: these name modules that lie beside
them, or in a repository of the Hub (``REPOSITORY--MODULE.CLASS``), and both are run. In models of other flavors it is
their own code that loads such folders, and says whether they are trusted. ``model_index.json`` of diffusers and
``adapter_config.json`` of peft have modules imported by whoever loads them (``_load_sub_model``, ``AutoPeftModel``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kbuild.audit.finding import Finding, Unchecked
from kbuild.audit.pickled.effort import LARGEST
from kbuild.audit.pickled.json_texts import unescaped
from kbuild.audit.pickled.unwrap import PickleStream
from kbuild.model.bundle import ModelBundle
from kbuild.untrusted import BrokenText, parse_json

_TRUSTING = ("transformers", "sentence_transformers")  # flavors
_LARGEST = 64 << 20  # bytes; what is larger is no configuration that anybody wrote
_KEYS = re.compile(rb'"(auto_map|type|types|activation_f\w+|sbert_\w+|_?attn_implementation)"')
# What is loaded as it says, without being told to trust it.
_IMPORTING = frozenset({"adapter_config.json", "model_index.json", "modular_model_index.json"})
# Spark's pipelines: what a stage is of, in a file of its metadata (``pyspark/ml/util.py``, DefaultParamsReader).
_STAGE = re.compile(r"(?:.*/)?metadata/[^_./][^/]*", re.DOTALL)
_OF_SPARK = re.compile(r"(org\.apache\.spark|pyspark)(\.\w+)+")
_OF_ZARR = re.compile(r"(?:.*/)?(?:\.zarray|\.zmetadata|zarr\.json)", re.DOTALL)
_UNPICKLES = re.compile(rb'"(?:id|name)"\s*:\s*"(?:numcodecs[./])?pickle"')
_OF_DIFFUSERS = re.compile(r"(diffusers|transformers)(\.\w+)*")
# Folders of diffusers' pipelines that have classes of their own, by which pipelines name them.
_PIPELINES = re.compile(
    "amused|audioldm2|blip_diffusion|deepfloyd_if|i2vgen_xl|kandinsky|latent_diffusion|ledits_pp|musicldm|paint_by_example"
    "|shap_e|stable_audio|stable_cascade|stable_diffusion(_safe)?|unclip|unidiffuser|wuerstchen"
)
_REFERENCE = re.compile(r"([\w./-]+--)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\.([A-Za-z_]\w*)")
# What MLflow itself writes into the files that name a module, and the flavors' key for the same.
_MODULES: Mapping[str, frozenset[str]] = {
    "pickle_module_info.txt": frozenset({"mlflow.pytorch.pickle_module", "pickle", "_pickle", "cloudpickle", "dill"}),
    "keras_module.txt": frozenset(
        {"keras", "keras.api", "keras.api._v2.keras", "tensorflow.keras", "tensorflow.python.keras", "tf_keras"}
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the configuration ``where`` has imported; of a ``repository`` of the Hub, ``""`` for none, or from
    ``source``, a file of the model that lies where its modules are looked for."""

    where: str
    repository: str
    module: str
    name: str
    source: str | None


def names_of_flavors(
    bundle: ModelBundle, own: Set[str], references: Iterable[Reference]
) -> Iterator[tuple[str, PickleStream]]:
    """Files, and the names in them that are imported, to be judged as a pickle's are. ``own`` are the roots of the
    model's own modules."""
    flavors = bundle.facts.stated
    called = _of(flavors, "xgboost").get("model_class")
    if called is not None:
        yield "MLmodel", _named(str(called))
    stated = [("MLmodel", _of(flavors, "tensorflow").get("keras_module"), "keras_module.txt")]
    for file in bundle.files:
        name = PurePosixPath(file.path).name
        if file.size > LARGEST:
            continue  # which the check of pickles says
        if _STAGE.fullmatch(file.path):
            yield from _of_stage(bundle, file.path, own)
        if _OF_ZARR.fullmatch(file.path):
            data = unescaped((bundle.root / file.path).read_bytes())
            if _UNPICKLES.search(data) is not None:
                told = "unpickles its arrays as they are read: their codec is pickle"
                yield file.path, PickleStream(place="", named=(), problems=(told,))
        if name in _MODULES:
            text = (bundle.root / file.path).read_bytes()[:200].decode("utf-8", "replace")
            stated.append((file.path, text, name))
    for where, module, kind in stated:
        if module is not None and module not in _MODULES[kind] and str(module).partition(".")[0] not in own:
            yield where, _named(str(module))
    for each in references:
        if not each.repository and each.source is None:
            yield each.where, PickleStream(place="", named=((each.module, each.name),))


def _of_stage(bundle: ModelBundle, path: str, own: Set[str]) -> Iterator[tuple[str, PickleStream]]:
    line = (bundle.root / path).read_bytes()[:_LARGEST].partition(b"\n")[0]
    try:
        stated = parse_json(line)
    except BrokenText as error:
        if "spark" in bundle.facts.stated:
            yield path, PickleStream(place="", named=(), problems=(f"imports what cannot be told: {error}",))
        return
    kind = stated.get("class") if isinstance(stated, dict) and "uid" in stated else None
    if isinstance(kind, str) and _OF_SPARK.fullmatch(kind) is None and kind.partition(".")[0] not in own:
        yield path, _named(kind)


def code_of_flavors(references: Iterable[Reference]) -> Iterator[Finding]:
    """Code that configurations name, outside of the model's own."""
    for each in references:
        if each.repository:
            what = f"{each.module}.{each.name} of {each.repository[:-2]}"
            yield Finding(
                id="model-remote-code",
                check="pickles",
                severity="critical",
                where=each.where,
                evidence=f"loading {each.where} fetches code from the Hub, {what}, and runs it",
                remedy="have the code in the model: save it with its files, or put them into code_paths",
            )
        elif each.source is not None:
            yield Finding(
                id="model-code-outside",
                check="pickles",
                severity="medium",
                where=each.where,
                evidence=f"loading {each.where} runs {each.source}, which lies outside of the model's own code",
                remedy="read it as you do the model's own code; accept it with an ignore",
            )


def fetched_by_flavors(bundle: ModelBundle) -> Iterator[Unchecked]:
    """What MLflow takes from elsewhere when it loads the model."""
    flavor, adapted = _of(bundle.facts.stated, "transformers"), _of(bundle.facts.stated, "diffusers").get("base_model")
    if adapted is not None:
        reason = f"it adapts {adapted}, which is fetched or read when it is loaded, with the modules that it names"
    elif flavor.get("local_base_model_path"):
        reason = f"its weights are taken from {flavor['local_base_model_path']} of the machine that loads it"
    elif flavor.get("source_model_revision"):
        reason = f"its weights are fetched from the Hub when it is loaded: {flavor.get('source_model_name')}"
    else:
        return
    remedy = (
        "log the model with its weights: save_pretrained=True" if adapted is None else "look at that model by itself"
    )
    yield Unchecked(check="pickles", where="MLmodel", reason=f"{reason:.300}", remedy=remedy)


def _of(flavors: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    flavor = flavors.get(name)
    return flavor if isinstance(flavor, dict) else {}


def _named(text: str) -> PickleStream:
    module, _, name = text.rpartition(".")
    if module:
        return PickleStream(place="", named=((module, name),))
    return PickleStream(place="", named=(), problems=(f"would import the module {text:.100}",))


def find_references(bundle: ModelBundle) -> tuple[tuple[Reference, ...], tuple[Unchecked, ...]]:
    """What configurations have imported, and those that may name something and cannot be read."""
    is_trusting = any(name in bundle.facts.stated for name in _TRUSTING)
    files = {file.path for file in bundle.files}
    found: dict[Reference, None] = {}
    unread: dict[Unchecked, None] = {}
    for file in bundle.files:
        if not file.path.endswith(".json"):
            continue
        name = PurePosixPath(file.path).name
        if file.size > _LARGEST:
            if is_trusting or name in _IMPORTING:
                unread[_unread(file.path, f"it is larger than {_LARGEST >> 20} MiB")] = None
            continue
        data = (bundle.root / file.path).read_bytes()
        if name not in _IMPORTING and _KEYS.search(unescaped(data)) is None:
            continue
        try:
            value = parse_json(data)
        except BrokenText as error:
            if is_trusting or name in _IMPORTING or b"auto_map" in unescaped(data):
                unread[_unread(file.path, str(error))] = None
            continue
        for text in _imported(value, name):
            found[_refer(files, file.path, text)] = None
        for text in _trusted(value, name):
            if text.startswith("sentence_transformers.") or _REFERENCE.fullmatch(text) is None:
                continue
            each = _refer(files, file.path, text)
            if is_trusting:
                found[each] = None
            elif not text.startswith("torch."):  # what computes there
                unread[_maybe(each)] = None
    return tuple(found), tuple(unread)


def _refer(files: Set[str], where: str, text: str) -> Reference:
    match = _REFERENCE.fullmatch(text)
    repository, module, name = match.groups() if match is not None else ("", *text.rpartition(".")[::2])
    source = _source(files, where, module)
    return Reference(where=where, repository=repository or "", module=module, name=name, source=source)


def _maybe(each: Reference) -> Unchecked:
    what = f"{each.module}.{each.name}" + (f" of {each.repository[:-2]} on the Hub" if each.repository else "")
    reason = f"it names code, {what:.200}, which is run where the model's own code loads it with trust_remote_code"
    remedy = "see how the model's own code loads it; save it without that code, or accept it with an ignore"
    return Unchecked(check="pickles", where=each.where, reason=reason, remedy=remedy)


def _unread(path: str, reason: str) -> Unchecked:
    remedy = "see whether it names code (auto_map, or modules of sentence-transformers); save the model again without"
    return Unchecked(check="pickles", where=path, reason=f"what it has imported is not known: {reason}", remedy=remedy)


def _imported(value: Any, file: str) -> Iterator[str]:
    """What is imported whoever loads it, ``MODULE.CLASS``: parts of diffusers' pipelines, and what peft adapts."""
    if file not in _IMPORTING or not isinstance(value, dict):
        return
    for named in (value.get("auto_mapping"),) if file == "adapter_config.json" else value.values():
        if isinstance(named, dict):
            module, name = named.get("parent_library"), named.get("base_model_class")
        elif isinstance(named, list) and len(named) > 1:
            module, name = named[:2]
        else:
            continue
        known = isinstance(module, str) and (_OF_DIFFUSERS.fullmatch(module) or _PIPELINES.fullmatch(module))
        if isinstance(module, str) and not known:
            yield f"{module}.{name}"


def _trusted(value: Any, file: str) -> Iterator[str]:
    """Texts that are references: under ``auto_map`` anywhere, and where sentence-transformers looks for classes; and
    kernels of the Hub that a model is to compute with."""
    pending = [value]
    while pending:
        each = pending.pop()
        pending += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        if not isinstance(each, dict):
            continue
        yield from _texts(each.get("auto_map"))
        if file == "modules.json":
            yield from _texts(each.get("type"))
        elif file == "router_config.json":
            yield from _texts(each.get("types"))
        for key, named in each.items():
            if key.startswith(("activation_f", "sbert_")):
                yield from _texts(named)
            elif key.endswith("attn_implementation"):
                yield from (
                    f"{text.partition('@')[0].partition(':')[0]}--kernel.code" for text in _texts(named) if "/" in text
                )


def _texts(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            yield each
        pending += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()


def _source(files: Set[str], where: str, module: str) -> str | None:
    """The file beside a configuration, or above it in the model, that is taken for a module."""
    places = (str(folder / f"{module.replace('.', '/')}.py") for folder in PurePosixPath(where).parents)
    return next((place for place in places if place in files), None)

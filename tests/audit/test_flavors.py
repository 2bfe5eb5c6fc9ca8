"""What MLflow's flavors import, call or fetch by names in texts of the model."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kbuild.audit.checks import flavors
from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject

PYFUNC = {"env": {"conda": "conda.yaml"}, "loader_module": "mlflow.xgboost", "python_version": "3.11.7"}
AUTO = {"AutoConfig": "configuration_it.ItConfig", "AutoTokenizer": ["tokens_it.Slow", None]}


@pytest.fixture
def check(make_bundle: Any) -> Callable[..., Any]:
    """What the audit says of a model of these flavors and files."""

    def run(flavors: dict[str, Any], files: dict[str, bytes] | None = None, **options: Any) -> Any:
        bundle = make_bundle(flavors={"python_function": PYFUNC, **flavors}, files=files)
        return PickleCheck(**options).run(Subject(reference="x", kind="model", bundle=bundle))

    return run


def told(result: Any) -> list[tuple[str, str]]:
    return [(each.id, each.severity) for each in result.findings]


def test_what_xgboosts_flavor_calls_is_judged(
    check: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.xgboost import _load_model

    (tmp_path / "asked_for.py").write_text("called = []\ndef serve():\n    called.append(1)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "asked_for", raising=False)
    result = check({"xgboost": {"model_class": "asked_for.serve", "data": "model.ubj", "code": None}})
    with contextlib.suppress(AttributeError):  # MLflow would have a model of what it returns
        _load_model(str(tmp_path / "model" / "model.ubj").removesuffix("/model.ubj"))
    assert sys.modules["asked_for"].called == [1]
    assert told(result) == [("pickle-unknown", "medium")] and "asked_for.serve" in result.findings[0].evidence
    assert "asked_for" in result.imports


@pytest.mark.parametrize(
    "model_class, expected",
    [
        ("os.abort", [("pickle-dangerous", "critical")]),
        ("http.server.test", [("pickle-unknown", "medium")]),
        ("breakpoint", [("pickle-unknown", "medium")]),
        (["os.abort"], [("pickle-unknown", "medium")]),
        ("xgboost.sklearn.XGBClassifier", []),
        ("xgboost.core.Booster", []),
        ("churn.models.Model", []),
        (None, []),
    ],
)
def test_xgboosts_own_classes_and_the_models_are_known(
    check: Callable[..., Any], model_class: Any, expected: list[tuple[str, str]]
) -> None:
    files = {"code/churn/__init__.py": b"", "code/churn/models.py": b"class Model:\n    pass\n"}
    assert told(check({"xgboost": {"model_class": model_class}}, files)) == expected


def test_the_policy_may_allow_what_is_called(check: Callable[..., Any]) -> None:
    stated = {"xgboost": {"model_class": "others.Model"}}
    assert told(check(stated)) == [("pickle-unknown", "medium")]
    assert told(check(stated, allowed=("others.*",))) == []


@pytest.mark.parametrize(
    "name, text, found",
    [
        ("pickle_module_info.txt", b"mlflow.pytorch.pickle_module", False),
        ("pickle_module_info.txt", b"dill", False),
        ("pickle_module_info.txt", b"churn.pickles", False),
        ("pickle_module_info.txt", b"antigravity", True),
        ("keras_module.txt", b"tensorflow.keras", False),
        ("keras_module.txt", b"idlelib.idle", True),
    ],
)
def test_modules_that_texts_have_imported(check: Callable[..., Any], name: str, text: bytes, found: bool) -> None:
    files = {f"data/{name}": text, "code/churn/__init__.py": b"", "code/churn/pickles.py": b""}
    assert bool(check({"pytorch": {"model_data": "data"}}, files).findings) is found
    if name.startswith("keras"):
        assert bool(check({"tensorflow": {"keras_module": text.decode()}}).findings) is found


@pytest.mark.parametrize("written", [json.dumps, lambda value: json.dumps(value).replace("auto", "\\u0061uto")])
def test_code_beside_a_configuration_is_told(check: Callable[..., Any], written: Callable[[Any], str]) -> None:
    config = written({"text_config": {"auto_map": AUTO}}).encode()
    files = {"model/config.json": config, "model/configuration_it.py": b"", "tokens_it.py": b""}
    result = check({"transformers": {"model_binary": "model"}}, files)
    assert told(result) == [("model-code-outside", "medium")] * 2
    assert {each.evidence.split()[3].rstrip(",") for each in result.findings} == {
        "model/configuration_it.py",
        "tokens_it.py",
    }
    # MLflow trusts such code in these two flavors alone.
    assert told(check({}, files)) == []


def test_code_of_the_hub_is_critical(check: Callable[..., Any]) -> None:
    config = json.dumps({"auto_map": {"AutoConfig": "some/where--configuration_it.ItConfig"}}).encode()
    files = {"model/config.json": config, "model/configuration_it.py": b""}
    result = check({"transformers": {"model_binary": "model"}}, files)
    assert told(result) == [("model-remote-code", "critical")]
    assert "some/where" in result.findings[0].evidence


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("sentence_transformers.models.Transformer", []),
        ("os.system", [("pickle-dangerous", "critical")]),
        ("others.Pooling", [("pickle-unknown", "medium")]),
        ("own_pooling.Pooling", [("model-code-outside", "medium")]),
        ("some/where--own_pooling.Pooling", [("model-remote-code", "critical")]),
    ],
)
def test_modules_of_sentence_transformers(
    check: Callable[..., Any], kind: str, expected: list[tuple[str, str]]
) -> None:
    files = {
        "model.st/modules.json": json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]).encode(),
        "model.st/own_pooling.py": b"",
        "model.st/config.json": b'{"activation_function": "gelu_new", "type": "os.system"}',
    }
    assert told(check({"sentence_transformers": {}}, files)) == expected


@pytest.mark.parametrize("key", ["activation_function", "activation_fn", "sbert_ce_default_activation_function"])
def test_functions_that_layers_of_sentence_transformers_call(check: Callable[..., Any], key: str) -> None:
    named = {"model.st/2_Dense/config.json": json.dumps({key: "os.system"}).encode()}
    assert told(check({"sentence_transformers": {}}, named)) == [("pickle-dangerous", "critical")]


def test_weights_that_are_elsewhere_are_unchecked(check: Callable[..., Any]) -> None:
    for key in ("source_model_revision", "local_base_model_path"):
        result = check({"transformers": {"source_model_name": "some/where", key: "0" * 40}})
        assert [each.where for each in result.unchecked] == ["MLmodel"]
    assert check({"transformers": {"source_model_name": "some/where", "model_binary": "model"}}).unchecked == ()


@pytest.mark.slow
def test_a_configuration_that_is_not_read_is_unchecked(
    check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's json, which transformers reads with, reads deeper than what is looked at here, and larger ones."""
    deep: Any = {}
    for _ in range(400):
        deep = {"x": deep}
    files = {"model/config.json": json.dumps({"auto_map": AUTO, "x": deep}).encode()}
    assert json.loads(files["model/config.json"])["auto_map"] == AUTO
    result = check({"transformers": {}}, files)
    assert [each.where for each in result.unchecked] == ["model/config.json"]
    monkeypatch.setattr(flavors, "_LARGEST", 1 << 20)
    large = json.dumps({"auto_map": AUTO, "pad": "x" * (1 << 20)}).encode()
    result = check({"transformers": {}}, {"model/config.json": large})
    assert ("model/config.json", True) in [(each.where, "larger" in each.reason) for each in result.unchecked]
    assert check({"sklearn": {}}, {"model/config.json": large.replace(b"auto_map", b"automaps")}).unchecked == ()


@pytest.mark.parametrize("named", ["configuration_it.ItConfig", "some/where--configuration_it.ItConfig", "os.system"])
@pytest.mark.parametrize(
    "file, make",
    [
        ("config.json", lambda named: {"text_config": {"auto_map": {"AutoConfig": named}}}),
        ("modules.json", lambda named: [{"idx": 0, "path": "", "type": named}]),
        ("2_Dense/config.json", lambda named: {"activation_function": named}),
    ],
)
def test_code_that_other_flavors_may_trust_is_unchecked(
    check: Callable[..., Any], file: str, make: Callable[[str], Any], named: str
) -> None:
    """It is the model's own code that says trust_remote_code there, or does not."""
    files = {f"artifacts/bert/{file}": json.dumps(make(named)).encode(), "artifacts/bert/configuration_it.py": b""}
    result = check({}, files)
    assert [(each.where, named.rpartition("--")[2] in each.reason) for each in result.unchecked] == [
        (f"artifacts/bert/{file}", True)
    ]


def test_what_only_looks_like_a_name_of_code_is_none(check: Callable[..., Any]) -> None:
    own = json.dumps({"type": "os.system", "activation_function": "torch.nn.modules.Tanh"}).encode()
    assert check({}, {"artifacts/x.json": own}).unchecked == ()


PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "unet": ["diffusers", "UNet2DConditionModel"],
}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, []),
        ({"vae": ["os", "system"]}, [("pickle-dangerous", "critical")]),
        ({"vae": ["antigravity", "Vae"]}, [("pickle-unknown", "medium")]),
        ({"vae": ["own_vae", "Vae"]}, [("model-code-outside", "medium")]),
        ({"_class_name": ["own_pipeline", "Own"]}, [("pickle-unknown", "medium")]),
    ],
)
@pytest.mark.parametrize("name", ["model_index.json", "modular_model_index.json"])
def test_modules_that_diffusers_imports_are_judged_in_any_flavor(
    check: Callable[..., Any], name: str, change: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """``DiffusionPipeline.from_pretrained`` imports the first of two texts (``pipeline_loading_utils.py``)."""
    files = {f"artifacts/sd/{name}": json.dumps(PIPELINE | change).encode(), "artifacts/sd/own_vae.py": b""}
    assert told(check({}, files)) == expected


def test_the_module_that_peft_imports_is_judged(check: Callable[..., Any]) -> None:
    for module, expected in (
        ("transformers.models.bert.modeling_bert", []),
        ("os", [("pickle-dangerous", "critical")]),
    ):
        mapping = {"parent_library": module, "base_model_class": "system"}
        files = {"artifacts/lora/adapter_config.json": json.dumps({"auto_mapping": mapping}).encode()}
        assert told(check({}, files)) == expected
    assert told(check({}, {"artifacts/lora/adapter_config.json": b'{"auto_mapping": null, "r": 8}'})) == []


def test_kernels_of_the_hub_are_code_of_it(check: Callable[..., Any]) -> None:
    for name, expected in (("sdpa", []), ("some/kernels@v1:flash", [("model-remote-code", "critical")])):
        files = {"model/config.json": json.dumps({"attn_implementation": name}).encode()}
        assert told(check({"transformers": {"model_binary": "model"}}, files)) == expected


def test_the_model_that_diffusers_flavor_adapts_is_unchecked(check: Callable[..., Any]) -> None:
    result = check({"diffusers": {"base_model": "some/where", "adapter_weights": "adapter_weights"}})
    assert [(each.where, "some/where" in each.reason) for each in result.unchecked] == [("MLmodel", True)]


STAGE = {"class": "org.apache.spark.ml.feature.VectorAssembler", "timestamp": 1, "uid": "u", "paramMap": {}}


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("org.apache.spark.ml.feature.VectorAssembler", []),
        ("pyspark.ml.pipeline.PipelineModel", []),
        ("churn.stages.Own", []),
        ("os.system", [("pickle-dangerous", "critical")]),
        ("antigravity.X", [("pickle-unknown", "medium")]),
        ("org.apache.sparkling.X", [("pickle-unknown", "medium")]),
    ],
)
def test_the_class_of_a_stage_of_spark_is_judged(
    check: Callable[..., Any], kind: str, expected: list[tuple[str, str]]
) -> None:
    """``DefaultParamsReader.loadParamsInstance`` imports it, whatever lies in the folder is its first line."""
    files = {"code/churn/__init__.py": b"", "code/churn/stages.py": b"class Own:\n    pass\n"}
    for place in ("sparkml/metadata/part-00000", "sparkml/stages/0_x/metadata/anything.txt"):
        data = json.dumps({**STAGE, "class": kind}).encode() + b"\nmore\n"
        assert told(check({"spark": {"model_data": "sparkml"}}, {**files, place: data})) == expected
        files[place] = b"{}"


def test_a_stage_of_spark_that_cannot_be_read_is_told(check: Callable[..., Any]) -> None:
    files = {"sparkml/metadata/part-00000.gz": b"\x1f\x8b"}
    assert told(check({"spark": {}}, files)) == [("pickle-unknown", "medium")]


def test_other_metadata_is_none_of_spark(check: Callable[..., Any]) -> None:
    files = {"artifacts/metadata/a.json": b'{"class": "dog"}', "artifacts/metadata/b.txt": b"words"}
    assert told(check({}, files)) == []


@pytest.mark.parametrize(
    "file, stated, found",
    [
        (".zarray", {"filters": [{"id": "pickle", "protocol": 5}]}, True),
        (".zmetadata", {"metadata": {"a/.zarray": {"filters": [{"id": "pickle"}]}}}, True),
        ("zarr.json", {"codecs": [{"name": "numcodecs.pickle"}]}, True),
        (".zarray", {"filters": None, "compressor": {"id": "blosc"}}, False),
        ("x.json", {"id": "pickle"}, False),
    ],
)
def test_arrays_of_zarr_that_are_pickles_are_told(
    check: Callable[..., Any], file: str, stated: dict[str, Any], found: bool
) -> None:
    """numcodecs' Pickle: what an array's own text names, ``zarr.open`` reads by."""
    result = told(check({}, {f"artifacts/z/{file}": json.dumps(stated).encode()}))
    assert result == ([("pickle-unknown", "medium")] if found else [])

"""The model's own code: what of it nobody can read, and what has another's name."""

from __future__ import annotations

import importlib
import io
import py_compile
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild._version import __version__
from kbuild.audit.checks.code import CodeCheck
from kbuild.audit.subject import Subject
from kbuild.model.bundle import read_bundle
from kbuild.shipped import model_part

SOURCE = b"def answer():\n    return 1\n"
OTHER = b"def answer():\n    return 2\n"


def check(bundle: Any, **options: Any) -> Any:
    return CodeCheck(**options).run(Subject(reference="x", kind="model", bundle=bundle))


def compiled(source: bytes, into: Path, mode: py_compile.PycInvalidationMode) -> None:
    kept = into.parent / "source.txt"
    kept.write_bytes(source)
    py_compile.compile(str(kept), str(into), dfile="churn/x.py", invalidation_mode=mode, doraise=True)
    kept.unlink()


@pytest.mark.parametrize(
    "files, id, where",
    [
        ({"code/churn/a.pyc": b"x"}, "code-bytecode", "code/churn/a.pyc"),
        ({"code/json.py": b""}, "code-name", "code/json.py"),
        ({"code/sklearn/__init__.py": b""}, "code-name", "code/sklearn"),
        ({"code/numpy.cpython-311-x86_64-linux-gnu.so": b""}, "code-name", "numpy.cpython-311-x86_64-linux-gnu.so"),
    ],
)
def test_what_nobody_reads_or_has_anothers_name_is_told(
    make_bundle: Any, files: dict[str, bytes], id: str, where: str
) -> None:
    findings = check(make_bundle(files={"code/churn/__init__.py": SOURCE, **files})).findings
    assert [(each.id, each.where.endswith(where)) for each in findings] == [(id, True)]


def test_native_code_is_unchecked_and_sources_are_nothing(make_bundle: Any) -> None:
    files = {"code/churn/__init__.py": SOURCE, "code/churn/data.json": b"{}", "json.py": b"", "artifacts/a.so": b""}
    result = check(make_bundle(files=files))
    assert (result.findings, result.unchecked) == ((), ())
    result = check(make_bundle(files={**files, "code/churn/fast.abi3.so": b""}))
    assert [each.where for each in result.unchecked] == ["code/churn/fast.abi3.so"]


@pytest.mark.parametrize(
    "mode, told",
    [(py_compile.PycInvalidationMode.UNCHECKED_HASH, True), (py_compile.PycInvalidationMode.CHECKED_HASH, False)],
)
def test_bytecode_that_python_takes_for_another_source_is_told(
    make_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: py_compile.PycInvalidationMode, told: bool
) -> None:
    bundle = make_bundle(files={"code/churn/__init__.py": b"", "code/churn/x.py": SOURCE})
    beside = bundle.root / "code/churn/__pycache__"
    beside.mkdir()
    compiled(OTHER, beside / f"x.{sys.implementation.cache_tag}.pyc", mode)
    # What Python itself makes of it says whether it has to be told.
    shutil.copytree(bundle.root / "code", tmp_path / "seen")
    monkeypatch.syspath_prepend(str(tmp_path / "seen"))
    for name in ("churn", "churn.x"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert (importlib.import_module("churn.x").answer() == 2) is told
    findings = check(read_bundle(bundle.root)).findings
    assert [each.id for each in findings] == (["code-bytecode"] if told else [])
    # An image has such bytecode of kbuild's own making, which is compared with what was built.
    subject = Subject(reference="x", kind="image", bundle=read_bundle(bundle.root))
    assert CodeCheck().run(subject).findings == ()


@pytest.mark.parametrize(
    "loader, allowed, told",
    [
        ("mlflow.sklearn", (), False),
        ("kbuild.x", (), False),
        ("churn.loading", (), False),
        ("antigravity", (), True),
        ("os.system", (), True),
        ("mlflowx", (), True),
        ("company.loading", (), True),
        ("company.loading", ("company.*",), False),
        ("company.loading", ("company.loading",), False),
        ("json.tool", (), True),
    ],
)
def test_who_loads_the_model_is_one_that_is_known(
    make_bundle: Any, loader: str, allowed: tuple[str, ...], told: bool
) -> None:
    root = make_bundle(files={"code/churn/__init__.py": SOURCE}).root
    mlmodel = yaml.safe_load((root / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"]["loader_module"] = loader
    (root / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    findings = check(read_bundle(root), allowed=allowed).findings
    assert [each.id for each in findings] == (["model-loader"] if told else [])


def test_the_folder_of_its_modules_is_that_which_mlmodel_names(make_bundle: Any) -> None:
    root = make_bundle(files={"lib/json.py": b""}).root
    mlmodel = yaml.safe_load((root / "MLmodel").read_text())
    mlmodel["flavors"]["python_function"]["code"] = "lib"
    (root / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    assert [each.where for each in check(read_bundle(root)).findings] == ["lib/json.py"]


GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (Path("/proc/self/exe").read_bytes()[:4096] if sys.platform == "linux" else b"\x7fELF\2\1\1", True),
        (struct.pack("<I", 0xFEEDFACF) + bytes(28), True),  # Mach-O, mach/loader.h
        (b"MZ\x90\0\3\0", True),
        (GGUF + struct.pack("<Q", 23) + b"tokenizer.chat_template" + struct.pack("<IQ", 8, 5) + b"{{x}}", True),
        (GGUF + struct.pack("<Q", 4) + b"name" + struct.pack("<IQ", 8, 1) + b"x", False),
        (b"numbers of a model", False),
    ],
)
def test_programs_beside_the_code_are_not_judged_and_that_is_said(
    make_bundle: Any, data: bytes, expected: bool
) -> None:
    result = check(make_bundle(files={"artifacts/x.bin": data}))
    assert [each.where for each in result.unchecked] == ["artifacts/x.bin"] * expected and result.findings == ()


def _archive(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "/"), content)
    return data.getvalue()


@pytest.mark.parametrize(
    "path, content, where",
    [
        ("artifacts/m.pt2", _archive(**{"data_aotinductor_m.so": b"x", "data_w": b"x"}), "!data/aotinductor/m.so"),
        ("artifacts/m.pt2", _archive(data_m=b"\x7fELF\2\1\1", version=b"1"), "!data/m"),
        ("artifacts/tokenizer_config.json", b'{"chat_template": "{{ \'\'.__class__.__mro__ }}"}', ""),
        ("a/tokenizer_config.json", b'{"chat_template": "{{ x|attr(\'\\\\x5fx\') }}"}', ""),
        ("a/tokenizer_config.json", b'{"chat_template": "{{ x[\'\\u005f\\u005fclass\\u005f\\u005f\'] }}"}', ""),
        ("a/chat_template.jinja", b"{{ messages | map(attribute='_x') }}", ""),
        ("code/churn/b.py", b"# -*- coding: utf-7 -*-\n+AHg-\n", ""),
        ("code/churn/b.py", b"#!/usr/bin/python\n# vim: set fileencoding=raw_unicode_escape :\n", ""),
    ],
)
def test_code_that_does_not_look_like_code_is_unchecked(
    make_bundle: Any, path: str, content: bytes, where: str
) -> None:
    result = check(make_bundle(files={"code/churn/__init__.py": SOURCE, path: content}))
    assert [each.where for each in result.unchecked] == [path + where]


CLEAN_TEMPLATE = (
    b"{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim }}"
    b"{% if loop.last and add_generation_prompt %}{{ bos_token }}{% endif %}{% endfor %}"
    b"{{ tools | map(attribute='name') | join(', ') }}"
)


def test_templates_codings_and_archives_that_are_clean_are_nothing(make_bundle: Any) -> None:
    files = {
        "code/churn/__init__.py": b"# -*- coding: latin-1 -*-\n# \xe9\n",
        "a/tokenizer_config.json": b'{"chat_template": "' + CLEAN_TEMPLATE + b'", "name_or_path": "a__b"}',
        "a/chat_template.jinja": CLEAN_TEMPLATE,
        "a/other.json": b'{"__class__": "x"}',
        "a/weights.npz": _archive(w=b"x" * 100),
        "a/broken.zip": b"PK\3\4" + b"x" * 50,
    }
    result = check(make_bundle(files=files))
    assert (result.findings, result.unchecked) == ((), ())


ROOT = Path(__file__).parents[2]
# What travels, by the repository's own files.
TRAVELLING = [
    *("kbuild/__init__.py", "kbuild/_version.py", "kbuild/errors.py"),
    *("kbuild/training/__init__.py", "kbuild/training/pyfunc.py"),
    *sorted(str(each.relative_to(ROOT)) for each in (ROOT / "kbuild/served").rglob("*.py")),
]


RECORD = {"format": 1, "python": "3.11.7", "version": __version__}
MINE = {"kbuild": {**RECORD, "part": model_part()}}


def travelling(**changes: bytes | None) -> dict[str, bytes]:
    files = {f"code/{path}": (ROOT / path).read_bytes() for path in TRAVELLING}
    for name, content in changes.items():
        path = f"code/kbuild/{name.replace('__', '/')}.py"
        if content is None:
            del files[path]
        else:
            files[path] = content
    return files


def test_kbuilds_own_part_is_compared_with_kbuild(make_bundle: Any) -> None:
    result = check(make_bundle(files=travelling()))
    assert (result.findings, result.unchecked) == ((), ())


@pytest.mark.parametrize(
    "changes, where",
    [
        ({"errors": (ROOT / "kbuild/errors.py").read_bytes() + b"import os\n"}, "code/kbuild/errors.py"),
        ({"errors": (ROOT / "kbuild/errors.py").read_bytes().replace(b"a", b"b", 1)}, "code/kbuild/errors.py"),
        ({"training__pyfunc": b""}, "code/kbuild/training/pyfunc.py"),
        ({"_version": b"__version__ = '9.9'\n"}, "code/kbuild/_version.py"),
        ({"zz": b"x = 1\n"}, "code/kbuild/zz.py"),
        ({"training__pyfunc": None}, "code/kbuild"),
    ],
)
def test_an_edited_part_of_kbuild_is_told_by_its_file(
    make_bundle: Any, changes: dict[str, bytes | None], where: str
) -> None:
    result = check(make_bundle(files=travelling(**changes), metadata=MINE))
    assert [(each.id, each.severity, each.where) for each in result.findings] == [("code-kbuild", "high", where)]
    assert result.unchecked == ()


def test_a_module_or_a_program_of_kbuilds_name_is_none_of_kbuilds(make_bundle: Any) -> None:
    files = {"code/kbuild.py": b"", **travelling()}
    assert [each.where for each in check(make_bundle(files=files, metadata=MINE)).findings] == ["code/kbuild.py"]
    files = {"code/kbuild-9.9.dist-info/METADATA": b"", **travelling()}
    assert check(make_bundle(name="other", files=files)).findings == ()


@pytest.mark.parametrize(
    "record", [{**RECORD, "version": "0.0.1", "part": model_part()}, {**RECORD, "part": "sha256:" + "0" * 64}, RECORD]
)
def test_what_another_kbuild_sent_along_is_unchecked_where_it_differs(make_bundle: Any, record: dict[str, Any]) -> None:
    result = check(make_bundle(files=travelling(errors=b"import os\n"), metadata={"kbuild": record}))
    assert result.findings == ()
    assert [(each.where, record["version"] in each.reason) for each in result.unchecked] == [("code/kbuild", True)]
    same = check(make_bundle(files=travelling(), metadata={"kbuild": record}))
    assert (same.findings, same.unchecked) == ((), ())

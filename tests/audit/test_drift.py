from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from kbuild.audit.checks.drift import DriftCheck
from kbuild.audit.checks.identity import asked_packages
from kbuild.audit.image_facts import Description, ImageFacts, ImageFile, make_image_facts, wants_bytes
from kbuild.audit.planned import Planned
from kbuild.audit.sources.osv import PackageVersion
from kbuild.audit.subject import KnownDigest, Subject, Trained, read_trained
from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage

SITE = "opt/env/lib/python3.11/site-packages"
OWNED = ("lib/python3.11/site-packages/README.txt",)


def dist(name: str, version: str, body: bytes = b"x = 1\n") -> dict[str, bytes]:
    """The files of an installed distribution."""
    info = f"{name}-{version}.dist-info"
    encoded = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n\nText"
    record = f"{name}.py,sha256={encoded},{len(body)}\n{name}.pyc,,\n{info}/METADATA,,\n{info}/RECORD,,\n"
    return {
        f"{SITE}/{name}.py": body,
        f"{SITE}/{name}.cpython-311.pyc": b"",
        f"{SITE}/{info}/METADATA": metadata.encode(),
        f"{SITE}/{info}/RECORD": record.encode(),
    }


def conda(name: str, version: str, sha256: str | None, files: tuple[str, ...] = ()) -> dict[str, bytes]:
    value = {"name": name, "version": version, "build": "0", "sha256": sha256, "files": files, "license": "PSF-2.0"}
    return {f"opt/env/conda-meta/{name}-{version}-0.json": json.dumps(value).encode()}


def facts(files: dict[str, bytes], **labels: str) -> ImageFacts:
    made = {
        path: ImageFile(digest=digest_bytes(data), size=len(data), data=data if wants_bytes(path, "opt/env") else None)
        for path, data in files.items()
    }
    named = {f"io.kbuild.{name}.digest": value for name, value in labels.items()}
    described = Description(digest="sha256:" + "0" * 64, subdir="linux-64", labels=named)
    return make_image_facts(made, described, prefix="opt/env", model_path="opt/model")


TRAINED = Trained(python="3.11.7", versions={"six": "1.17.0"}, direct=frozenset({"six"}), whole=True)


def found(**subject: Any) -> list[tuple[str, str]]:
    result = DriftCheck().run(Subject(reference="x", kind="model", **subject))
    assert all(each.evidence and each.remedy for each in result.findings)
    return [(each.id, each.where) for each in result.findings]


@pytest.fixture
def lock(make_lock: Any, make_entry: Any) -> Any:
    return make_lock(make_entry("six", "1.17.0"), make_entry("python", "3.11.7", "conda"))


@pytest.fixture
def image_files(lock: Any) -> dict[str, bytes]:
    python = next(entry for entry in lock.entries if entry.name == "python")
    return {
        **dist("six", "1.17.0"),
        **conda("python", "3.11.7", python.sha256, OWNED),
        f"{SITE}/README.txt": b"conda's",
    }


def test_nothing_has_drifted(lock: Any, image_files: dict[str, bytes]) -> None:
    assert found(lock=lock, trained=TRAINED, image=facts(image_files)) == []


def test_what_a_slim_image_says_it_is_without_has_not_drifted(lock: Any, image_files: dict[str, bytes]) -> None:
    without = facts({path: data for path, data in image_files.items() if "six" not in path})
    assert ("drift-missing", "pip:six") in found(lock=lock, trained=TRAINED, image=without)
    slim = replace(without, labels={**without.labels, "io.kbuild.slim.left-out": "flask six"})
    assert found(lock=lock, trained=TRAINED, image=slim) == []


def test_the_lock_against_training(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("six", "1.16.0"), make_entry("extra", "1"), make_entry("python", "3.12.1", "conda"))
    trained = Trained(python="3.11.7", versions={"six": "1.17.0"}, direct=frozenset({"six", "numpy"}), whole=True)
    assert found(lock=lock, trained=trained) == [
        ("drift-interpreter", "conda:python"),
        ("drift-trained", "pip:six"),
        ("drift-not-trained", "pip:extra"),
        ("drift-not-locked", "pip:numpy"),
    ]


def test_conda_packages_are_compared_with_training_by_the_distribution_that_they_are(
    make_lock: Any, make_entry: Any
) -> None:
    lock = make_lock(
        make_entry("tzdata", "2025c", "conda"),
        make_entry("tzdata", "2025.2"),
        {**make_entry("pytorch", "2.6.0", "conda"), "dependencies": {"libtorch": "", "python": ">=3.11"}},
    )
    versions = {"tzdata": "2025.2", "torch": "2.7.0"}
    trained = Trained(python="3.11.7", versions=versions, direct=frozenset(versions), whole=True)
    assert found(lock=lock, trained=trained) == [("drift-trained", "conda:pytorch")]


def test_of_a_conda_package_and_a_wheel_of_one_distribution_the_wheel_is_compared(
    make_lock: Any, make_entry: Any
) -> None:
    conda = {**make_entry("numpy", "1.26.4", "conda"), "dependencies": {"python": ">=3.11"}}
    trained = Trained(python="3.11.7", versions={"numpy": "2.0.2"}, direct=frozenset({"numpy"}), whole=True)
    assert found(lock=make_lock(conda, make_entry("numpy", "2.0.2")), trained=trained) == []
    assert found(lock=make_lock(conda, make_entry("numpy", "2.0.1")), trained=trained) == [
        ("drift-trained", "pip:numpy")
    ]


def test_a_model_without_its_closure_is_unchecked(lock: Any, make_bundle: Any) -> None:
    trained = read_trained(make_bundle(constraints=None))
    assert (trained.python, trained.versions, trained.whole) == ("3.11.7", {"six": "1.17.0"}, False)
    result = DriftCheck().run(Subject(reference="x", kind="model", lock=lock, trained=trained))
    assert [each.where for each in result.unchecked] == ["model"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({**dict.fromkeys(dist("six", "1.17.0")), **dist("six", "1.16.0")}, [("drift-image", "pip:six")]),
        (dict.fromkeys(dist("six", "1.17.0")), [("drift-missing", "pip:six")]),
        (dist("miner", "1"), [("drift-not-locked", "pip:miner")]),
        ({f"{SITE}/six.py": b"import os\n"}, [("drift-files", "pip:six")]),
        ({f"{SITE}/six.py": None}, [("drift-files", "pip:six")]),
        ({f"{SITE}/sitecustomize.py": b""}, [("drift-unowned", "site-packages")]),
        ({f"{SITE}/x.pth": b""}, [("drift-unowned", "site-packages")]),
        ({f"{SITE}/__pycache__/six.pyc": b""}, []),
        (conda("xz", "5", None), [("drift-not-locked", "conda:xz")]),
        (conda("python", "3.11.7", "1" * 64, OWNED), [("drift-image", "conda:python")]),
    ],
)
def test_the_image_against_the_lock(
    lock: Any, image_files: dict[str, bytes], change: dict[str, bytes | None], expected: list[tuple[str, str]]
) -> None:
    files = {path: data for path, data in {**image_files, **change}.items() if data is not None}
    assert found(lock=lock, image=facts(files)) == expected


def test_another_interpreter_in_the_image(lock: Any, image_files: dict[str, bytes]) -> None:
    files = {path: data for path, data in image_files.items() if "conda-meta" not in path}
    files |= {**conda("python", "3.11.9", None), f"{SITE}/README.txt": b""}
    assert ("drift-interpreter", "conda:python") in found(lock=lock, trained=TRAINED, image=facts(files))


def test_what_conda_brings_is_compared_as_conda_s(make_lock: Any, make_entry: Any) -> None:
    brought = dist("six", "1.17.0")
    owned = tuple(path.removeprefix("opt/env/") for path in brought)
    lock = make_lock(make_entry("six", "1.17.0", "conda"))
    image = facts({**brought, **conda("six", "1.17.0", lock.entries[0].sha256, owned)})
    assert found(lock=lock, image=image) == []


def test_model_and_lock_digests(lock: Any, image_files: dict[str, bytes]) -> None:
    files = {**image_files, "opt/model/MLmodel": b"m", "opt/model/code/__pycache__/x.pyc": b"c"}
    right = str(facts(files).model_digest)
    assert found(image=facts(files, model=right)) == []
    assert found(image=facts(files, model="sha256:" + "1" * 64)) == [("drift-model", "model")]
    known = KnownDigest(place="run 1", digest="sha256:" + "2" * 64)
    assert found(image=facts(files, model=right), known_models=(known,)) == [("drift-model", "model")]
    assert found(lock=lock, built_from=(known,)) == [("drift-lock", "conda-lock.yml")]


def test_the_model_digest_is_that_of_the_bundle(make_bundle: Any) -> None:
    bundle = make_bundle(files={"code/x.py": b"1", "python_model.pkl": b"2"})
    files = {f"opt/model/{file.path}": (bundle.root / file.path).read_bytes() for file in bundle.files}
    assert facts({**files, "opt/model/code/__pycache__/x.pyc": b""}).model_digest == bundle.digest


def test_licences_and_damaged_records() -> None:
    image = facts({**dist("six", "1.17.0"), **conda("python", "3.11.7", None)})
    assert (image.distributions[0].license, image.conda[0].license, image.python) == ("MIT", "PSF-2.0", "3.11.7")
    with pytest.raises(InvalidImage, match=r"python-3\.json"):
        facts({"opt/env/conda-meta/python-3.json": b"[]"})


def test_a_projects_own_conda_package_is_compared_by_the_name_that_the_project_gives(
    make_lock: Any, make_entry: Any
) -> None:
    entry = {**make_entry("acme-churn", "1.0", "conda"), "dependencies": {"python": ">=3.11"}}
    trained = Trained(python="3.11.7", versions={"churn": "2.0"}, direct=frozenset(), whole=True)
    own = (("acme-churn", "churn"),)
    assert found(lock=make_lock(entry), trained=trained) == []
    assert found(lock=make_lock(entry), trained=trained, names=own) == [("drift-trained", "conda:acme-churn")]
    (asked,) = asked_packages(Subject(reference="x", kind="lock", lock=make_lock(entry), names=own))
    assert asked.package == PackageVersion(ecosystem="PyPI", name="churn", version="1.0")


def test_the_packages_of_the_base_against_those_that_were_recorded(lock: Any, image_files: dict[str, bytes]) -> None:
    status = (
        "Package: libc6\nSource: glibc\nVersion: 2.36-9+deb12u9\n\nPackage: zlib1g\nSource: zlib (1:1.2.13)\n"
        "Version: 1:1.2.13+b1\n\nPackage: evil\nVersion: 1\n"
    )
    image = facts({**image_files, "var/lib/dpkg/status": status.encode()})
    recorded = {"libc6": "2.36-9+deb12u10", "zlib1g": "1:1.2.13+b1", "gone": "1"}
    assert found(lock=lock, trained=TRAINED, image=image, planned=Planned(base_packages=recorded)) == [
        ("drift-base", "deb:evil"),
        ("drift-base", "deb:gone"),
        ("drift-base", "deb:libc6"),
    ]
    assert found(lock=lock, trained=TRAINED, image=image, planned=Planned()) == []

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kbuild.audit.checks.integrity import IntegrityCheck
from kbuild.audit.finding import CheckResult
from kbuild.audit.lockview import view_lock
from kbuild.audit.policy import Policy
from kbuild.audit.subject import KnownDigest, Subject
from kbuild.digest import digest_bytes
from kbuild.environment.index.package_indexes import Indexes, IndexFile
from kbuild.environment.lock_digests import CONTENT_DIGEST_KEY
from kbuild.environment.lockfile import INPUT_DIGEST_KEY
from kbuild.errors import InvalidModel, LockfileInvalid
from kbuild.workflow.build import check_no_credentials


def ids(lock: Any, policy: Policy | None = None, **subject: Any) -> list[str]:
    result = IntegrityCheck(policy or Policy()).run(Subject(reference="x", kind="lock", lock=lock, **subject))
    assert all(each.evidence and each.remedy for each in result.findings)
    assert result.unchecked == ()
    return [each.id for each in result.findings]


CLEAN_CONDA = {"url": "$KBUILD_CHANNEL/linux-64/python-3.11.7-h1_0.conda"}


def test_a_lock_of_kbuild_is_clean(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(
        make_entry("six", "1.17.0"),
        make_entry("xz", "5", "conda"),
        make_entry("python", "3.11.7", "conda", **CLEAN_CONDA),
    )
    assert ids(lock) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hash": {"md5": "0" * 32}}, ["lock-no-sha256"]),
        ({"hash": {"sha256": "XYZ"}}, ["lock-no-sha256"]),
        ({"url": None}, ["lock-no-url"]),
        ({"url": "git+https://git.example/x.git@main"}, ["lock-vcs"]),
        ({"url": "https://git.example/x.git@v1"}, ["lock-vcs"]),
        ({"url": "file:///home/me/x-1-py3-none-any.whl"}, ["lock-path"]),
        ({"url": "../x-1-py3-none-any.whl"}, ["lock-path"]),
        ({"url": "https://files.example/simple/../../b/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "https://files.example/simple/%2E%2e/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "ftp://files.example/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "DATA:application/zip;base64,AAAA/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/x-1-h1_0.whl"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/x-1-h1_0.tar.bz2"}, []),
        # A folder that is called t is none of conda's tokens, but a server's /t/TOKEN/ is.
        ({"url": "file:///srv/t/wheels/x-1-py3-none-any.whl"}, ["lock-path"]),
        ({"url": "/srv/t/wheels/x-1-py3-none-any.whl"}, ["lock-path"]),
        (
            {"manager": "conda", "url": "https://conda.example/t/secret/forge/linux-64/x-1-h1_0.conda"},
            ["lock-credentials"],
        ),
        ({"url": "https://files.example/x-1.tar.gz"}, ["lock-sdist"]),
        ({"url": f"$KBUILD_CHANNEL/wheels/{'d' * 64}/x-1-py3-none-any.whl#sdist-sha256={'c' * 64}"}, ["lock-built"]),
        ({"url": "http://files.example/x-1-py3-none-any.whl"}, ["lock-plain-http"]),
        ({"url": "http://127.0.0.1:8/x-1-py3-none-any.whl"}, []),
        ({"url": "https://files.example/x-2-py3-none-any.whl"}, ["lock-other-file"]),
        ({"url": "https://files.example/x-1.0-py3-none-any.whl"}, []),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/x-1.2-h1_0.conda"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/x-1-h1_0.conda"}, []),
        ({"url": "https://files.example/evil-1-py3-none-any.whl"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/evil-1-h1_0.conda"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/linux-64/x-y-1-h1_0.conda"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/osx-64/x-1-h1_0.conda"}, ["lock-other-file"]),
        ({"manager": "conda", "url": "https://conda.example/forge/noarch/x-1-h1_0.conda"}, []),
        ({"url": "https://files.example/x-1-cp311-cp311-win_amd64.whl"}, ["lock-other-file"]),
        ({"url": "https://files.example/x-1-cp311-cp311-macosx_11_0_arm64.whl"}, ["lock-other-file"]),
        ({"url": "https://files.example/x-1-cp311-cp311-manylinux_2_28_aarch64.whl"}, ["lock-other-file"]),
        ({"url": "https://files.example/x-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"}, []),
        ({"url": "https://files.example/x-1-cp311-abi3-linux_x86_64.whl"}, []),
        ({"url": "https://files.example/x-1-cp311-cp311-musllinux_1_2_x86_64.whl"}, []),
        ({"manager": "npm"}, ["lock-other-file"]),
        ({"url": "https://files.example/$HOME/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "https://files.example/${AWS_SECRET_ACCESS_KEY}/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "https://evil.example\\.files.example/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "https://files.example/a\nhttps://evil.example/x-1-py3-none-any.whl"}, ["lock-url"]),
        ({"url": "https://me:secret@files.example/x-1-py3-none-any.whl"}, ["lock-credentials"]),
    ],
)
def test_a_package_s_faults(make_lock: Any, make_entry: Any, change: dict[str, Any], expected: list[str]) -> None:
    assert ids(make_lock(make_entry("x", "1", **change))) == expected


def test_a_package_that_is_there_twice_is_told_once(make_lock: Any, make_entry: Any) -> None:
    one = make_entry("x", "1")
    for other in (make_entry("x", "1", hash={"sha256": "1" * 64}), make_entry("x", "2"), make_entry("X", "1")):
        assert ids(make_lock(one, other)) == ["lock-twice"]
    assert ids(make_lock(one, make_entry("x", "1", platform="linux-aarch64"), make_entry("x", "1", "conda"))) == []


def test_a_wheel_of_which_conda_has_the_package_too_is_told(make_lock: Any, make_entry: Any) -> None:
    wheel, of_python = make_entry("x", "1"), {"dependencies": {"python": ">=3.11"}}
    lock = make_lock(make_entry("python", "3.11.7", "conda"), wheel, make_entry("x", "2", "conda", **of_python))
    (found,) = IntegrityCheck(Policy()).run(Subject(reference="x", kind="lock", lock=lock)).findings
    assert (found.id, found.severity, found.where) == ("lock-twice", "medium", "pip:x")
    assert "conda's x 2 (package[2])" in found.evidence
    # What a wheel binds to, another platform's, and none of the name.
    for other in (
        make_entry("x", "2", "conda"),
        make_entry("x", "2", "conda", platform="linux-aarch64", **of_python),
        make_entry("y", "2", "conda", **of_python),
    ):
        assert "lock-twice" not in ids(make_lock(wheel, other))


def test_a_wheel_for_another_python_is_told(make_lock: Any, make_entry: Any) -> None:
    def told(tags: str, python: str = "3.11.7") -> list[str]:
        wheel = make_entry("x", "1", url=f"https://files.example/x-1-{tags}.whl")
        return ids(make_lock(make_entry("python", python, "conda"), wheel))

    for tags in ("cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311t-manylinux_2_28_x86_64", "pp311-pypy311_pp73-any"):
        assert told(tags) == ["lock-other-file"], tags
    for tags in (
        "cp311-cp311-manylinux_2_28_x86_64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp38-abi3-manylinux2014_x86_64",
        "py2.py3-none-any",
        "py3-none-manylinux_2_28_x86_64",
    ):
        assert told(tags) == [], tags
    assert told("cp312-cp312-linux_x86_64", python="3.12.1") == []
    assert told("cp312-cp312-win_amd64") == ["lock-other-file"]


def test_what_is_none_of_a_locks_format_is_unchecked(make_entry: Any, make_lock_bytes: Any) -> None:
    whole = yaml.safe_load(make_lock_bytes(make_entry("x", "1"), make_entry("y", "1")))
    # As conda-lock 4 writes it, with all that its models have.
    whole["metadata"] |= {"time_metadata": None, "git_metadata": None, "inputs_metadata": {}}
    whole["package"][0] |= {"build": "h1_0", "source": None}
    whole["package"][0]["hash"]["md5"] = "0" * 32

    def told(change: Any) -> str:
        document = copy.deepcopy(whole)
        change(document)
        view = view_lock(yaml.safe_dump(document).encode(), source="test")
        result = IntegrityCheck(Policy()).run(Subject(reference="x", kind="lock", lock=view))
        return "".join(each.reason for each in result.unchecked)

    assert told(lambda document: None) == ""
    assert "it has extra," in told(lambda document: document.update(extra=1))
    assert "it has metadata.post," in told(lambda document: document["metadata"].update(post="x"))
    assert "metadata.channels[].mirror" in told(lambda document: document["metadata"]["channels"][0].update(mirror="x"))
    assert "it has package[].mirror, of" in told(
        lambda document: [each.update(mirror="https://evil.example") for each in document["package"]]
    )
    assert "package[].hash.sha1" in told(lambda document: document["package"][1]["hash"].update(sha1="x"))
    assert "package[].dependencies" in told(lambda document: document["package"][1].update(dependencies=["z"]))
    assert "it has package[]," in told(lambda document: document["package"].append("z"))


def test_a_built_wheel_names_what_it_was_built_from(make_lock: Any, make_entry: Any) -> None:
    url = f"$KBUILD_CHANNEL/wheels/{'d' * 64}/x-1-py3-none-any.whl#sdist-sha256={'c' * 64}"
    lock = make_lock(make_entry("x", "1", url=url))
    (found,) = IntegrityCheck(Policy()).run(Subject(reference="x", kind="lock", lock=lock)).findings
    assert f"source distribution (sha256 {'c' * 64})" in found.evidence
    assert "x-1-py3-none-any.whl, sha256" in found.evidence and "publish this one" in found.remedy


def test_a_wheel_of_a_folder_was_not_built_here(make_lock: Any, make_entry: Any, tmp_path: Path) -> None:
    """Such is torch's CPU build, and a team's own package: it counts where a folder of pip's configuration has it."""
    name = "x-1-py3-none-any.whl"
    flat, index, other = tmp_path / "flat", tmp_path / "simple", tmp_path / "other"
    for folder, content in ((flat, b"a wheel"), (index / "x", b"a wheel"), (other, b"another")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
    digest = digest_bytes(b"a wheel").hex
    url = f"$KBUILD_CHANNEL/wheels/{digest}/{name}"
    lock = make_lock(make_entry("x", "1", url=url, hash={"sha256": digest}))

    def told(*places: Path, policy: Policy | None = None, **subject: Any) -> CheckResult:
        check = IntegrityCheck(policy or Policy(), indexes=tuple(each.as_uri() for each in places))
        return check.run(Subject(reference="x", kind="lock", lock=lock, **subject))

    own = Indexes(urls=("https://index.example/simple",), find_links=(flat.as_uri(),))
    for result in (told(flat), told(other, index), told(own=(own,))):
        assert (result.findings, result.unchecked) == ((), ())
    for result in (told(), told(other), told(tmp_path / "gone")):
        (unchecked,) = result.unchecked
        assert result.findings == () and unchecked.where == "pip:x"
        assert "a folder of the machine that locked it" in unchecked.reason and "PIP_FIND_LINKS" in unchecked.remedy
    # A policy that states indexes means no other place.
    allowed = Policy(allowed_indexes=("https://files.example/", flat.as_uri()))
    assert told(policy=allowed).findings == ()
    refused = told(flat, policy=Policy(allowed_indexes=("https://files.example/",)))
    assert [each.id for each in refused.findings] == ["lock-origin"] and refused.unchecked == ()


def test_no_secret_is_shown(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("x", "1", url="http://me:secret@files.example/t/tok/x-1.tar.gz"))
    policy = Policy(allowed_indexes=("https://you:hidden@ok.example/",))
    result = IntegrityCheck(policy).run(Subject(reference="x", kind="lock", lock=lock))
    assert result.findings
    assert "secret" not in str(result)
    assert "hidden" not in str(result)


def test_only_allowed_origins(make_lock: Any, make_entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", "https://conda.example/")
    lock = make_lock(make_entry("x", "1"), make_entry("y", "1", "conda"))
    assert ids(lock, Policy(allowed_channels=("forge",), allowed_indexes=("https://files.example/",))) == []
    assert ids(lock, Policy(allowed_channels=("for",), allowed_indexes=("https://files.exam",))) == ["lock-origin"] * 2
    # A name is one of the alias, wherever a server has a folder of that name.
    monkeypatch.delenv("CONDA_CHANNEL_ALIAS")
    assert ids(lock, Policy(allowed_channels=("forge",))) == ["lock-origin"]
    strange = make_lock(make_entry("y", "1", "conda"), channels=("https://conda.example/other",))
    assert ids(strange) == ["lock-origin"]


def test_a_lock_edited_by_hand(make_lock_bytes: Any, make_entry: Any) -> None:
    content = make_lock_bytes(make_entry("six", "1.17.0"))
    edited = view_lock(content.replace(b"1.17.0", b"1.16.0"), source="x")
    assert ids(edited) == ["lock-edited"]
    commented = view_lock(b"# looked at\n" + content, source="x")
    assert ids(commented) == []
    stored = KnownDigest(place="run 1", digest=str(digest_bytes(content)))
    assert ids(commented, stored_locks=(stored,)) == ["lock-edited"]
    assert ids(view_lock(content, source="x"), stored_locks=(stored,)) == []
    # Without the seal that kbuild writes, of a lock that says to be kbuild's.
    document = yaml.safe_load(content)
    del document["metadata"]["custom_metadata"][CONTENT_DIGEST_KEY]
    assert ids(view_lock(yaml.safe_dump(document).encode(), source="x")) == []
    document["metadata"]["custom_metadata"][INPUT_DIGEST_KEY] = f"sha256:{'0' * 64}"
    assert ids(view_lock(yaml.safe_dump(document).encode(), source="x")) == ["lock-edited"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda metadata: metadata["channels"].append({"url": "https://elsewhere.example/c", "used_env_vars": []}),
        lambda metadata: metadata["platforms"].append("linux-aarch64"),
        lambda metadata: metadata["custom_metadata"].update({INPUT_DIGEST_KEY: f"sha256:{'1' * 64}"}),
        lambda metadata: metadata.update(sources=["environment.yml"]),
    ],
    ids=["channel", "platform", "whose it is", "sources"],
)
def test_what_a_lock_says_of_itself_is_edited_by_hand_too(
    make_lock_bytes: Any, make_entry: Any, edit: Callable[[Any], object]
) -> None:
    document = yaml.safe_load(make_lock_bytes(make_entry("six", "1.17.0")))
    edit(document["metadata"])
    assert "lock-edited" in ids(view_lock(yaml.safe_dump(document).encode(), source="x"))


def test_a_lock_of_before_vouches_for_its_packages(make_lock_bytes: Any, make_entry: Any) -> None:
    """Its digest is that of the ``package`` list alone."""
    packages = [make_entry("six", "1.17.0")]
    document = yaml.safe_load(make_lock_bytes(*packages))
    text = json.dumps(packages, sort_keys=True, separators=(",", ":"))
    document["metadata"]["custom_metadata"][CONTENT_DIGEST_KEY] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert ids(view_lock(yaml.safe_dump(document).encode(), source="x")) == []
    document["package"][0]["optional"] = True
    assert ids(view_lock(yaml.safe_dump(document).encode(), source="x")) == ["lock-edited"]


def test_a_channel_that_the_lock_alone_names_is_not_known(
    make_lock_bytes: Any, make_entry: Any, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", "https://conda.example/")
    bundle, python = make_bundle(), make_entry("python", "3.11.7", "conda")
    moved = {**python, "url": python["url"].replace("forge", "other")}
    channels = ("https://conda.example/forge", "https://conda.example/other")

    def unchecked(entry: Any, policy: Policy | None = None, **options: Any) -> list[str]:
        content = make_lock_bytes(entry, channels=channels)
        lock = view_lock(content, source="x")
        stored = options.pop("stored", False) and (KnownDigest(place="run 1", digest=str(digest_bytes(content))),)
        subject = Subject(reference="x", kind="model", lock=lock, bundle=bundle, stored_locks=stored or ())
        result = IntegrityCheck(policy or Policy(), **options).run(subject)
        assert "lock-origin" not in {each.id for each in result.findings}
        return [each.reason for each in result.unchecked]

    assert unchecked(python) == []
    [reason] = unchecked(moved)
    assert "https://conda.example/other/" in reason and "the lock alone" in reason
    assert unchecked(moved, stored=True) == []
    assert unchecked(moved, channels=("other",)) == []
    assert unchecked(moved, Policy(allowed_channels=("other",))) == []


def test_staleness_is_told_where_the_model_is_known(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("six", "1.17.0"))
    assert ids(lock, fresh_inputs=None) == []
    assert ids(lock, fresh_inputs=frozenset({digest_bytes(b"")})) == ["lock-stale"]


def test_no_lock_is_unchecked() -> None:
    result = IntegrityCheck(Policy()).run(Subject(reference="x", kind="model", remake="kbuild lock abc"))
    assert [each.remedy for each in result.unchecked] == ["make one: kbuild lock abc"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b"version: 2\npackage: []\n", b"a: [", b""])
def test_what_is_no_lock(content: bytes) -> None:
    with pytest.raises(LockfileInvalid, match=r"this\.yml"):
        view_lock(content, source="this.yml")


def test_credentials_in_a_model_and_in_a_channel_are_found(make_lock: Any, make_entry: Any, make_bundle: Any) -> None:
    line = b"--extra-index-url https://robot:hunter2@pypi.corp/simple\n"
    bundle = make_bundle(files={"requirements.txt": b"six\n" + line})
    lock = make_lock(make_entry("six", "1.17.0"), channels=("https://conda.corp/t/hunter2/forge",))
    assert ids(lock, bundle=bundle) == ["lock-credentials", "model-credentials"]
    result = IntegrityCheck(Policy()).run(Subject(reference="x", kind="model", bundle=bundle))
    assert [each.where for each in result.findings] == ["model:requirements.txt"]
    assert "hunter2" not in str(result)
    with pytest.raises(InvalidModel, match=r"requirements\.txt") as caught:
        check_no_credentials(bundle)
    assert "hunter2" not in str(caught.value)


def test_a_wheel_of_another_server_is_one_that_the_index_leads_to(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("x", "1"), make_entry("y", "1", url="https://pypi.corp/y-1-py3-none-any.whl"))
    (entry, _) = lock.entries

    def run(lookup: Any) -> CheckResult:
        check = IntegrityCheck(Policy(), indexes=("https://me:pw@pypi.corp/simple",), lookup=lookup)
        return check.run(Subject(reference="x", kind="lock", lock=lock))

    file = IndexFile(filename=entry.filename, sha256=entry.sha256, yanked=None, url=entry.url or "")
    assert run(lambda name: [file]) == CheckResult(check="lock", looked_at=2)
    assert [each.id for each in run(lambda name: [replace(file, sha256="0" * 64)]).findings] == ["lock-origin"]
    assert [each.id for each in run(lambda name: []).findings] == ["lock-origin"]
    assert [each.where for each in run(None).unchecked] == ["pip:x"]


def test_a_wheel_of_the_models_own_index_is_where_it_may_be(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("x", "1", url="https://own.example/x-1-py3-none-any.whl"), make_entry("y", "1"))
    file = IndexFile(filename="", sha256=lock.entries[1].sha256, yanked=None, url=lock.entries[1].url or "")
    own = Indexes(urls=("https://pypi.corp/simple", "https://own.example/simple"))
    asked = []

    def lookup(name: str, *places: Indexes) -> list[IndexFile]:
        asked.append((name, *places))
        return [file] if places else []

    check = IntegrityCheck(Policy(), indexes=("https://pypi.corp/simple",), lookup=lookup)
    found = check.run(Subject(reference="x", kind="model", lock=lock)).findings
    assert [each.id for each in found] == ["lock-origin"] * 2
    assert check.run(Subject(reference="x", kind="model", lock=lock, own=(own,))).findings == ()
    assert asked[-1] == ("y", own)


def test_what_packages_depend_on_has_to_be_in_the_lock(make_lock: Any, make_entry: Any) -> None:
    dateutil = make_entry("python-dateutil", "2.9", dependencies={"six": ">=1.5"})
    hidden = make_entry("six", "1.17.0", category="dev")
    assert ids(make_lock(dateutil)) == ids(make_lock(dateutil, hidden)) == ["lock-gap"]
    assert ids(make_lock(dateutil, make_entry("six", "1.17.0"))) == []
    assert ids(make_lock(dateutil, make_entry("six", "1.17.0", platform="linux-aarch64"))) == ["lock-gap"]


@pytest.mark.parametrize(
    ("asked", "six", "found"),
    [(">=1.5", "1.4", True), ("==1.17.0.*", "1.16.0", True), ("1.17.0", "1.17.1", True), (">=1.5", "1.5rc1", True),
     (">=1.5", "1.17.0", False), ("*", "1", False), ("1.17.0", "1.17.0", False), ("<1 || >=2", "2.1", False)],
)  # fmt: skip
def test_what_packages_ask_of_each_other_has_to_hold(
    make_lock: Any, make_entry: Any, asked: str, six: str, found: bool
) -> None:
    dateutil = make_entry("python-dateutil", "2.9", dependencies={"six": asked})
    lock = make_lock(dateutil, make_entry("six", six))
    assert ids(lock) == (["lock-conflict"] if found else [])
    # For each platform by itself.
    assert ids(
        make_lock(dateutil, make_entry("six", "1.17.0"), make_entry("six", "0.1", platform="linux-aarch64"))
    ) == (["lock-conflict"] if asked == "<1 || >=2" else [])


def test_platforms_that_a_lock_names_are_those_of_its_packages(make_lock_bytes: Any, make_entry: Any) -> None:
    document = yaml.safe_load(make_lock_bytes(make_entry("six", "1.17.0")))
    for platforms, told in (
        (["linux-64", "osx-arm64"], ["platform osx-arm64"]),
        (["linux-aarch64"], ["platform linux-aarch64"]),
        (["linux-64", "linux-64"], []),
    ):
        document["metadata"]["platforms"] = platforms
        document["metadata"].pop("custom_metadata", None)
        lock = view_lock(yaml.safe_dump(document).encode(), source="test")
        result = IntegrityCheck(Policy()).run(Subject(reference="x", kind="lock", lock=lock))
        assert [each.where for each in result.findings if each.id == "lock-platform"] == told

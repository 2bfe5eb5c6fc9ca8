"""The repository that conda-lock's solver sees, against what pip says of the same places.

In processes of their own: conda-lock says on import what is deprecated in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from loaded import Loaded
from pip._vendor.packaging.specifiers import SpecifierSet
from small_wheels import wheel

from kbuild.environment.condalock.failures import explain_failure
from kbuild.errors import EnvironmentSpecError

ASK = """
import json, sys
from types import SimpleNamespace
from conda_lock import pypi_solver
from conda_lock._vendor.poetry.core.packages.dependency import Dependency
from conda_lock._vendor.poetry.installation.chooser import Chooser
from kbuild.environment.condalock import launcher, places as pooled

places, wanted = json.load(sys.stdin)
pypi_solver.MANYLINUX_TAGS[:] = launcher.manylinux_tags()
pooled.install(pypi_solver, places)
pool = pypi_solver._prepare_repositories_pool(False)
glibc = {"a": {"name": "__glibc", "version": places["glibc"]}}
env = pypi_solver.PlatformEnv(platform="linux-64", platform_virtual_packages=glibc, python_version=places["python"])
answers = {}
for text in wanted:
    found = pool.find_packages(Dependency.create_from_pep_508(text))
    best = max(found, key=lambda package: package.version, default=None)
    if best is None:
        answers[text] = None
        continue
    package = pool.package(best.name, best.version)
    link = Chooser(pool, env).choose_for(package)
    needs = sorted(each.name for each in package.requires)
    answers[text] = [str(best.version), pypi_solver._get_stripped_url(link), link.hashes.get("sha256"), needs]
json.dump(answers, sys.stdout)
"""


def serve(site: Any, where: str, wheels: Iterable[tuple[str, bytes]], *, hashes: bool = True, extra: str = "") -> None:
    links = []
    for filename, data in wheels:
        quoted = filename.replace("+", "%2B")
        site.pages[f"{where}files/{quoted}"] = (200, "application/octet-stream", data)
        digest = f"#sha256={hashlib.sha256(data).hexdigest()}" if hashes else ""
        links.append(f'<a href="files/{quoted}{digest}" {extra}>{filename}</a>')
    site.pages[where] = (200, "text/html", "\n".join(links).encode())


def ask(conda_lock: Loaded, wanted: list[str], tmp_path: Path, **places: Any) -> dict[str, list[Any] | None]:
    values = {"indexes": [], "find_links": [], "python": "3.11.7", "platform": "linux/amd64", "glibc": "2.36", **places}
    environ = {**os.environ, "POETRY_CACHE_DIR": str(tmp_path / "poetry")}
    done = conda_lock.run(ASK, json.dumps([values, wanted]), env=environ)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, list[Any] | None] = json.loads(done.stdout)
    return answers


def write(folder: Path, wheels: Iterable[tuple[str, bytes]]) -> str:
    folder.mkdir(parents=True)
    for filename, data in wheels:
        (folder / filename).write_bytes(data)
    return folder.as_uri()


def test_all_places_are_one_pool(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """As pip: the best version of any place wins, whichever was named first; what does not fit is no candidate."""
    serve(site, "/a/newer/", [wheel("newer", "1.0")])
    serve(site, "/b/newer/", [wheel("newer", "2.0")])
    # The main index has an sdist of the newest release, the other one its wheel.
    site.pages["/a/split/"] = (200, "text/html", b'<a href="split-2.0.tar.gz#sha256=00"></a>')
    serve(site, "/b/split/", [wheel("split", "2.0"), wheel("split", "1.0")])
    # Of 3.0 there are files for other machines, C libraries and Pythons alone.
    unfit = ("cp311-cp311-win_amd64", "cp311-cp311-manylinux_2_38_x86_64", "cp312-cp312-manylinux_2_17_x86_64")
    serve(site, "/a/picky/", [*(wheel("picky", "3.0", tag=tag) for tag in unfit), wheel("picky", "2.0")])
    serve(site, "/a/young/", [wheel("young", "1.0")])
    serve(site, "/b/young/", [wheel("young", "2.0")], extra='data-requires-python="&gt;=3.12"')
    # Of the wheels of one release the one of the newest C library that is there, wherever it lies.
    tags = ("manylinux_2_17_x86_64.manylinux2014_x86_64", "manylinux_2_35_x86_64", "manylinux_2_37_x86_64")
    for index, tag in zip("aba", tags, strict=True):
        key = f"/{index}/close/"
        before = site.pages.get(key, (0, "", b""))[2]
        serve(site, key, [wheel("close", "1.0", tag=f"cp311-cp311-{tag}")])
        site.pages[key] = (200, "text/html", before + site.pages[key][2])
    wanted = ["newer", "split", "picky", "picky>=3", "young", "close", "nowhere"]
    found = ask(conda_lock, wanted, tmp_path, indexes=[f"{site.url}/a", f"{site.url}/b"])
    assert {name: answer and answer[0] for name, answer in found.items()} == {
        "newer": "2.0",
        "split": "2.0",
        "picky": "2.0",
        "picky>=3": None,
        "young": "1.0",
        "close": "1.0",
        "nowhere": None,
    }
    assert found["split"] is not None and found["split"][1].startswith(f"{site.url}/b/split/files/split-2.0-py3")
    assert found["close"] is not None and "manylinux_2_35_x86_64" in found["close"][1]


@pytest.mark.slow
def test_links_are_relative_to_the_base_of_a_page(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """The urls are those that HTML's standard makes of the page's url and its base; pip leaves relative ones."""
    filename, data = wheel("based", "1.0")
    digest = hashlib.sha256(data).hexdigest()
    bases = {
        "whole": (f'<head><base href="{site.url}/store/deep/"></head>', "/store/deep/"),
        "path": ('<BASE href="/store/">', "/store/"),
        "relative": ('<base target="_blank"><base href="../../store/x/page.html"><base href="/other/">', "/store/x/"),
        "comment": ('<!-- <base href="/other/"> -->', "/comment/based/"),
    }
    for kind, (head, place) in bases.items():
        html = f'{head}<a href="{filename}#sha256={digest}">{filename}</a>'
        site.pages[f"/{kind}/based/"] = (200, "text/html", html.encode())
        site.pages[f"{place}{filename}"] = (200, "application/octet-stream", data)
        (tmp_path / f"{kind}.html").write_text(html.replace('"../../', f'"{site.url}/'))
        url = f"{site.url}{place}{filename}"
        expected = {"based": ["1.0", url, digest, []]}
        assert ask(conda_lock, ["based"], tmp_path, indexes=[f"{site.url}/{kind}"]) == expected, kind
        assert ask(conda_lock, ["based"], tmp_path, find_links=[f"{site.url}/{kind}/based/"]) == expected, kind
        if kind in ("whole", "relative"):  # of the others the links of a file are those of this machine
            page = (tmp_path / f"{kind}.html").as_uri()
            assert ask(conda_lock, ["based"], tmp_path, find_links=[page]) == expected, kind


def test_an_index_that_speaks_json_alone(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """PEP 691, as pip reads it: relative urls, yanked files, Pythons; and no page at all is no empty one."""

    def file(filename: str, data: bytes, **more: Any) -> dict[str, Any]:
        site.pages[f"/files/{filename}"] = (200, "application/octet-stream", data)
        digest = hashlib.sha256(data).hexdigest()
        return {"filename": filename, "url": f"../../files/{filename}", "hashes": {"sha256": digest}, **more}

    files = [
        file(*wheel("acme", "4.0"), yanked='a <b> "reason"'),
        file(*wheel("acme", "3.0"), **{"requires-python": ">=3.12"}),
        file(
            *wheel("acme", "2.0", needs="dep===1.0"),
            yanked=False,
            **{"requires-python": ">=3.8,<4", "core-metadata": False},
        ),
        file(*wheel("acme", "1.0"), yanked=True, size=3),
    ]
    kind = "application/vnd.pypi.simple.v1+json"
    said = {"meta": {"api-version": "1.1"}, "name": "acme", "files": files}
    site.pages["/j/acme/"] = (200, kind, json.dumps(said).encode())
    found = ask(conda_lock, ["acme", "acme==4.0", "acme==1.0"], tmp_path, indexes=[f"{site.url}/j"])
    digests = {each["filename"]: each["hashes"]["sha256"] for each in files}
    names = {version: f"acme-{version}-py3-none-any.whl" for version in ("4.0", "2.0", "1.0")}
    urls = {version: f"{site.url}/files/{name}" for version, name in names.items()}
    assert found["acme"] == ["2.0", urls["2.0"], digests[names["2.0"]], ["dep"]]
    for version in ("4.0", "1.0"):
        assert found[f"acme=={version}"] == [version, urls[version], digests[names[version]], []]
    site.pages["/j/acme/"] = (200, kind, b'{"message": "maintenance"}')
    with pytest.raises(AssertionError, match="lists no files"):
        ask(conda_lock, ["acme"], tmp_path, indexes=[f"{site.url}/j"])


def test_local_versions_from_find_links_and_folders(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """``torch==2.5.0`` takes ``2.5.0+cpu``, as for pip: a local version is newer than the release itself."""
    cpu = wheel("torch", "2.5.0+cpu", needs="filelock")
    same = wheel("same", "1.0")
    serve(site, "/a/torch/", [wheel("torch", "2.5.0")])
    serve(site, "/a/same/", [same])
    serve(site, "/links/", [cpu, wheel("unhashed", "1.0")], hashes=False)
    folder = write(tmp_path / "flat", [same, wheel("mine", "1.0+local.1"), wheel("filelock", "3")])
    write(tmp_path / "simple/indexed", [wheel("indexed", "1.0")])
    wanted = ["torch==2.5.0", "torch==2.5.0+cpu", "mine", "same", "indexed", "unhashed"]
    places = {
        "indexes": [f"{site.url}/a", (tmp_path / "simple").as_uri()],
        "find_links": [f"{site.url}/links/", folder],
    }
    found = ask(conda_lock, wanted, tmp_path, **places)
    digest = hashlib.sha256(cpu[1]).hexdigest()
    torch = ["2.5.0+cpu", f"{site.url}/links/files/{cpu[0].replace('+', '%2B')}", digest, ["filelock"]]
    assert found["torch==2.5.0"] == found["torch==2.5.0+cpu"] == torch
    mine, indexed, unhashed, one = found["mine"], found["indexed"], found["unhashed"], found["same"]
    assert mine is not None and mine[1] == f"{folder}/mine-1.0%2Blocal.1-py3-none-any.whl"
    assert mine[2] == hashlib.sha256((tmp_path / "flat/mine-1.0+local.1-py3-none-any.whl").read_bytes()).hexdigest()
    assert indexed is not None and indexed[1].startswith((tmp_path / "simple/indexed").as_uri())
    assert unhashed is not None and len(unhashed[2]) == 64
    # A copy on this machine of a file that a server has: the server's, which others can ask too.
    assert one is not None and one[1].startswith(site.url)


def test_of_a_releases_files_the_one_that_is_named_by_hash(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """pip's "Hash-checking mode": a file that no line names is no candidate, however good its tags are."""
    tags = ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_35_x86_64")
    wheels = [wheel("x", "1.0", tag=f"cp311-cp311-{tag}") for tag in tags]
    serve(site, "/a/x/", wheels)
    digests = [hashlib.sha256(data).hexdigest() for _, data in wheels]
    for named, taken in ((digests[:2], 1), (digests[:1], 0), ([], 2), (["0" * 64], 2)):
        places = {"indexes": [f"{site.url}/a"], "hashes": {"x": named}}
        answer = ask(conda_lock, ["x==1.0"], tmp_path, **places)["x==1.0"]
        assert answer is not None and answer[2] == digests[taken]


def test_source_distributions_as_pips_configuration_has_it(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    serve(site, "/i/wheels/", [wheel("wheels", "1.0")])
    for name in ("a", "b", "alone"):
        serve(site, f"/i/{name}/", [wheel(name, "1.0")] if name != "alone" else [])
        sdist = f'<a href="{name}-2.0.tar.gz#sha256=00"></a>'.encode()
        site.pages[f"/i/{name}/"] = (200, "text/html", site.pages[f"/i/{name}/"][2] + sdist)
    for binary, wanted in (
        ({"only": [":all:"]}, {"a": "1.0", "b": "1.0", "alone": None}),
        ({"only": ["a"]}, {"a": "1.0"}),
        ({"only": [":all:"], "but": ["alone"]}, {"a": "1.0", "b": "1.0"}),
        ({"prefer": True}, {"a": "1.0", "b": "1.0"}),
        ({"but": ["wheels"]}, {"wheels": None}),
    ):
        found = ask(conda_lock, list(wanted), tmp_path, indexes=[f"{site.url}/i"], binary=binary)
        assert {name: answer and answer[0] for name, answer in found.items()} == wanted


def test_a_wheel_that_was_built_here_is_taken_where_others_are_refused(
    conda_lock: Loaded, site: Any, tmp_path: Path
) -> None:
    serve(site, "/i/a/", [wheel("a", "1.0")])
    filename, data = wheel("a", "1.0", content="built = True\n")
    (tmp_path / filename).write_bytes(data)
    url = (tmp_path / filename).as_uri()
    places = {"indexes": [f"{site.url}/i"], "find_links": [url], "binary": {"but": ["a"]}, "built": [url]}
    answer = ask(conda_lock, ["a"], tmp_path, **places)["a"]
    assert answer is not None and answer[1:3] == [url, hashlib.sha256(data).hexdigest()]


def test_prereleases_as_pip_takes_them(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """PEP 440, "Handling of pre-releases": where a specifier names one, or there is nothing else that fits."""
    serve(site, "/i/a/", [wheel("a", each) for each in ("1.0", "1.5", "2.0b1", "2.0b2", "3.0.dev1")])
    serve(site, "/i/young/", [wheel("young", "1.0rc1")])
    wanted = {
        "a": "1.5",
        "a<=2.0b1": "2.0b1",
        # Whether "<" names one was settled by pip 26 (its packaging): the pip that is installed says.
        "a<2.0b2": "2.0b1" if SpecifierSet("<2.0b2").prereleases else "1.5",
        "a>=1.0,<=2.0b2": "2.0b2",
        "a~=2.0b1": "2.0b2",
        "a>=2.0b1,!=2.0b2": "3.0.dev1",
        "a==1.*": "1.5",
        "a<2": "1.5",
        "a!=2.0b1": "1.5",
        "a==2.0b1": "2.0b1",
        "young": "1.0rc1",
    }
    found = ask(conda_lock, list(wanted), tmp_path, indexes=[f"{site.url}/i"])
    assert {name: answer and answer[0] for name, answer in found.items()} == wanted
    found = ask(conda_lock, ["a", "a<2"], tmp_path, indexes=[f"{site.url}/i"], binary={"pre": True})
    # PEP 440: below 2 there is none of 2's own pre-releases.
    assert {name: answer and answer[0] for name, answer in found.items()} == {"a": "3.0.dev1", "a<2": "1.5"}


def test_no_source_distribution_is_built_to_be_read(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """poetry would try to, in an environment of its own."""
    ran = tmp_path / "ran"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in {
            "setup.py": f"open({str(ran)!r}, 'w')",
            "PKG-INFO": "Metadata-Version: 1.1\nName: old\nVersion: 1.0\n",
            "old.egg-info/PKG-INFO": "Metadata-Version: 1.1\nName: old\nVersion: 1.0\n",
        }.items():
            member = tarfile.TarInfo(f"old-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    serve(site, "/a/old/", [])
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    site.pages["/a/files/old-1.0.tar.gz"] = (200, "application/octet-stream", data.getvalue())
    site.pages["/a/old/"] = (200, "text/html", b'<a href="../files/old-1.0.tar.gz"></a>')
    values = {"indexes": [f"{site.url}/a"], "find_links": [], "python": "3.11.7", "platform": "linux/amd64"}
    environ = {**os.environ, "POETRY_CACHE_DIR": str(tmp_path / "poetry")}
    order = json.dumps([values | {"glibc": "2.36"}, ["old"]])
    done = conda_lock.run(ASK, order, env=environ, cwd=tmp_path)
    assert done.returncode == 1 and "old-1.0.tar.gz does not say what it depends on" in done.stderr
    unread = (tmp_path / "unread-sdists.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in unread] == [["old", "1.0", f"{site.url}/a/files/old-1.0.tar.gz", digest]]
    assert not ran.exists()


def test_a_wheel_that_changed_under_its_name_is_read_again(conda_lock: Loaded, tmp_path: Path) -> None:
    folder = write(tmp_path / "flat", [wheel("mine", "1.0", needs="old")])
    assert ask(conda_lock, ["mine"], tmp_path, find_links=[folder])["mine"][3] == ["old"]  # type: ignore[index]
    filename, data = wheel("mine", "1.0", needs="new", content="# another")
    (tmp_path / "flat" / filename).write_bytes(data)
    again = ask(conda_lock, ["mine"], tmp_path, find_links=[folder])["mine"]
    assert again is not None and again[2:] == [hashlib.sha256(data).hexdigest(), ["new"]]


def test_a_page_of_links_that_refuses_is_no_empty_one(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    site.pages["/links.html"] = (401, "text/html", b"")
    place = f"{site.url.replace('//', '//me:secret@')}/links.html"
    with pytest.raises(
        AssertionError, match=r"RepositoryError: .*\*\*\*@127\.0\.0\.1.*links\.html of pip's find-links"
    ):
        ask(conda_lock, ["x"], tmp_path, find_links=[place])


def test_a_local_version_is_not_what_a_wheel_asks_for_by_arbitrary_equality(
    conda_lock: Loaded, site: Any, tmp_path: Path
) -> None:
    serve(site, "/e/acme/", [wheel("acme", "1.0", needs="dep===1.0")])
    serve(site, "/e/dep/", [wheel("dep", "1.0"), wheel("dep", "1.0+cpu")])
    with pytest.raises(
        AssertionError, match=r"OtherVersion: acme 1\.0 asks for dep===1\.0, and dep 1\.0\+cpu is taken"
    ):
        ask(conda_lock, ["acme", "dep==1.0"], tmp_path, indexes=[f"{site.url}/e"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "wanted",
    [
        "x @ https://127.0.0.1:9/x-1.0-py3-none-any.whl",
        "x @ https://me:secret@127.0.0.1:9/x-1.0.tar.gz",
        "x @ git+https://127.0.0.1:9/x.git@v1",
    ],
)
def test_a_package_that_requires_another_by_a_url_is_told(conda_lock: Loaded, wanted: str, tmp_path: Path) -> None:
    """Before anything is asked of its host: nobody listens at port 9."""
    code = ASK.partition("pool = ")[0] + (
        "from conda_lock._vendor.poetry.puzzle.provider import Provider\n"
        "Provider.search_for_direct_origin_dependency(None, Dependency.create_from_pep_508(wanted[0]))"
    )
    places = {"indexes": [], "find_links": [], "python": "3.11.7", "platform": "linux/amd64", "glibc": "2.36"}
    done = conda_lock.run(code, json.dumps([places, [wanted]]), env={**os.environ, "POETRY_CACHE_DIR": str(tmp_path)})
    error = explain_failure(done.stderr, releases=lambda _: {})
    assert type(error) is EnvironmentSpecError and wanted.replace("me:secret", "***") in error.message
    assert "secret" not in error.message

"""Index pages of which one release is read, against poetry's own reading of the whole page; and the same packages.

In processes of their own: conda-lock says on import what is deprecated in it.
"""

import hashlib
import io
import json
import os
import random
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from loaded import Loaded
from packaging.markers import Marker
from small_wheels import wheel

from kbuild.digest import digest_bytes
from kbuild.environment.condalock.one_platform import PlatformSolve
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import KbuildError
from kbuild.platform import Platform
from kbuild.process import Completed, run
from kbuild.progress import Silent

COMPARE = """
import json, sys
from conda_lock._vendor.poetry.core.constraints.version import Version
from conda_lock._vendor.poetry.repositories.link_sources.html import HTMLPage
from kbuild.environment.condalock.narrowing import only_release

def read(text):
    return HTMLPage("https://index.example/simple/foo/", text)

def links(page, version):
    try:
        return [
            [link.url, link.requires_python, link._yanked, link._metadata]
            for name in ("foo", "foo-bar")
            for link in page.links_for_version(name, version)
        ]
    except ValueError as error:
        return [str(error)]

wrong, found, narrowed = [], 0, 0
for text in json.load(sys.stdin):
    page = read(text)
    for spelled in ("1.0", "1.0.0", "1.0+cpu", "1!1.0", "1.0rc1", "1.0.post1", "2.0", "10.0"):
        version = Version.parse(spelled)
        rest = only_release(text, spelled)
        narrowed += rest is not None and len(rest) < len(text)
        whole = links(page, version)
        found += len(whole)
        if rest is not None and links(read(rest), version) != whole:
            wrong.append([spelled, text, rest])
json.dump({"wrong": wrong, "found": found, "narrowed": narrowed}, sys.stdout)
"""
FILES = (
    *("foo-1.0-py3-none-any.whl", "foo-1.0.0-1-cp311-cp311-manylinux_2_17_x86_64.whl", "foo-1.0.tar.gz"),
    *("foo-1.0+cpu-py3-none-any.whl", "foo-1.0%2Bcpu-py3-none-any.whl", "foo-1.0%2bCPU.tar.gz", "Foo-1.0.zip"),
    *("foo-1!1.0.tar.gz", "foo-1%211.0-py3-none-any.whl", "foo-1.0rc1.tar.gz", "foo-1.0.rc1-py3-none-any.whl"),
    *("foo-1.0-1.tar.gz", "foo-1.0.post1.tar.gz", "foo-2.0-py3-none-any.whl", "foo-2.0.sdist.zip", "foo-10.0.tar.bz2"),
    *("foo_bar-1.0-py3-none-any.whl", "foo-bar-2-1.0.tar.gz", "foo.bar-1.0.tar.gz", "foo-1.0.win32.exe", "foo.whl"),
    *("foo-1.0-py2.py3-none-any.whl", "foo-v1.0.tar.gz", "foo-1.0~x.tar.gz", "foo-nightly.tar.gz", "foo-1.0.tar.gz/"),
)
PLACES = ("", "../../packages/ab/", "/files/", "https://files.example/a/b/", "//files.example/", "x:", "https://[x/")
ENDS = ("", "#sha256=" + "a" * 64, "#md5=0", "?b=c/d#sha256=" + "b" * 64, "?x=foo-1.0.tar.gz", "#/foo-2.0.tar.gz")
MORE = (
    *("", ' data-requires-python="&gt;=3.8"', ' data-requires-python=">=3.8"', ' data-yanked=""', " data-yanked"),
    *(' data-yanked="a &lt;b&gt; reason"', ' data-core-metadata="sha256=00"', ' rel="internal"', " data-requires='x'"),
    *(' href="foo-2.0.tar.gz"', ' hreflang="en"', ' title="--> <"', ' data-dist-info-metadata="true" x=y'),
)
LINKS = (
    *('<a href="{href}"{more}>{file}</a><br/>', '<a{more} href="{href}">{file}</a><br />\n', "<a href='{href}'>x</a>"),
    *('<A HREF="{href}"{more}>x</A>', "<a href={href}{more}>x</a>", '<a href="{href}"{more}>x<b>y</b></a>'),
    *(
        '<a href="{href}"{more}/>',
        '<a\nhref="{href}"{more}\n>',
        '<a href = "{href}">x</a>',
        '<a href="{href}"{more}</a>',
    ),
)
ODD = (
    *("<!DOCTYPE html>", "<!--SERIAL 1-->", "<!-- a > b -->", "<!--", "-->", "<!-->", "<![CDATA[", "]]>", "<?x", "?>"),
    *(
        "<",
        "</",
        '<p title="',
        '"',
        "'",
        ">",
        "<p title='",
        "&",
        "&lt;",
        "<script>",
        "</script>",
        "<title>",
        "</title>",
    ),
    *('<base href="https://other.example/x/">', "<br>", "<h1>Links for foo</h1>", "<textarea>", "<plaintext>", "</a"),
    *("<!", "<!-- <a href='foo-1.0.tar.gz'>", "<style>", "</style>", "<p a='<a href=\"foo-1.0.zip\">'>", "\x00", "é"),
)


def pages(number: int) -> list[str]:
    """Pages of random pieces; every other one as indexes write them, with links that are at most unusual."""
    chance = random.Random(10)  # noqa: S311  # the same pages each time

    def link(plain: bool) -> str:
        file = chance.choice(FILES)
        href = chance.choice(PLACES[:-1] if plain else PLACES) + file + chance.choice(ENDS)
        return chance.choice(LINKS[:5] if plain else LINKS).format(
            href=href, file=file, more=chance.choice(MORE[:9] if plain else MORE)
        )

    found = []
    for index in range(number):
        pieces = [link(index % 2 == 0) for _ in range(chance.randint(1, 6))]
        if index % 2:
            pieces += chance.choices(ODD, k=chance.randint(0, 2))
            chance.shuffle(pieces)
        found.append("".join(pieces))
    return found


def test_no_link_of_the_release_is_lost_on_any_page(conda_lock: Loaded) -> None:
    done = conda_lock.run(COMPARE, json.dumps(pages(1500)))
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["wrong"][:3] == []
    assert answer["found"] > 2000
    assert answer["narrowed"] > 2000


CONDA = f"""#!{sys.executable}
import json
record = {{"name": "python", "version": "3.11.7", "depends": [], "md5": "0" * 32, "sha256": "0" * 64}}
record["url"] = "https://conda.example/main/linux-64/python-3.11.7-0.conda"
print(json.dumps({{"success": True, "actions": {{"FETCH": [record], "LINK": [record]}}}}))
"""


def sdist(name: str, version: str) -> tuple[str, bytes]:
    data = io.BytesIO()
    text = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\nRequires-Dist: alpha\n".encode()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        entry = tarfile.TarInfo(f"{name}-{version}/PKG-INFO")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    return f"{name}-{version}.tar.gz", data.getvalue()


def publish(site: Any, index: str, name: str, files: dict[tuple[str, bytes], str], *, base: str = "") -> None:
    """A page of these files; ``{}`` in what stands for each is the hash."""
    links = ["<!DOCTYPE html><html><head>", base, f"<title>Links for {name}</title></head><body>"]
    for (filename, data), more in files.items():
        quoted = filename.replace("+", "%2B")
        site.pages[f"/files/{quoted}"] = (200, "application/octet-stream", data)
        attributes = more.replace("{}", f"#sha256={hashlib.sha256(data).hexdigest()}")
        links.append(f"<a {attributes.replace('NAME', quoted)}>{filename}</a><br/>")
    site.pages[f"/{index}/{name}/"] = (200, "text/html", "\n".join([*links, "</body></html>"]).encode())


# It waits for seconds before it asks an index that fails again.
LAUNCH = """
import runpy, sys, time
sleep, time.sleep = time.sleep, lambda seconds: sleep(seconds / 100)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def solve(
    conda_lock: Loaded | None,
    site: Any,
    tmp_path: Path,
    *,
    pip: list[str],
    pins: list[str],
    whole: bool,
    downloads: Path | None = None,
    architecture: str = "amd64",
) -> str:
    """The lock as text, or what the error says; None starts conda-lock as kbuild does."""
    solver = tmp_path / "conda"
    solver.write_text(CONDA)
    solver.chmod(solver.stat().st_mode | stat.S_IXUSR)
    cache = str(tmp_path / f"cache-{whole}-{downloads}")
    environ = {**os.environ, "XDG_CACHE_HOME": cache}
    environ.pop("REQUESTS_CA_BUNDLE", None)
    platform = Platform("linux", architecture)

    def launch(argv: Any, *, env: Any, cwd: Path, **options: Any) -> Completed:
        if conda_lock is None:
            return run(argv, env=env, cwd=cwd, **options)
        assert argv[:2] == [sys.executable, "-P"]
        done = conda_lock.run(LAUNCH, argv=tuple(argv[2:]), env={**env, "POETRY_CACHE_DIR": cache}, cwd=cwd)
        return Completed(argv=tuple(argv), returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)

    indexes = (f"{site.url}/a", f"{site.url.replace('//', '//me:pass@')}/b")
    try:
        document = PlatformSolve(
            spec=EnvironmentSpec(
                python="3.11.7",
                conda=(),
                pip=tuple(pip),
                constraints=tuple(pins),
                channels=("https://conda.example/main",),
                indexes=indexes,
                platforms=(platform,),
                interpreter="conda",
            ),
            indexes=indexes,
            platform=platform,
            channels=("https://conda.example/main",),
            glibc="2.36",
            input_digest=digest_bytes(b""),
            run=launch,
            environ={**environ, "KBUILD_WHOLE_INDEX_PAGES": "1"} if whole else environ,
            solver=solver,
            progress=Silent(),
            downloads=downloads,
        ).document()
    except KbuildError as error:
        return f"{type(error).__name__}: {error.message}"
    return str(yaml.safe_dump(document, sort_keys=False))


@pytest.mark.slow
def test_the_lock_is_the_same_as_from_whole_pages(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    plain, relative = 'href="/files/NAME{}"', 'href="NAME{}"'
    # Withdrawn, but pinned; it asks for a package that training did not have.
    publish(
        site,
        "a",
        "alpha",
        {
            wheel("alpha", "1.0", needs="stranger>=1"): f'{plain} data-yanked="broken &amp; gone"',
            wheel("alpha", "2.0"): plain,
            sdist("alpha", "1.0"): f"{plain} data-yanked",
        },
    )
    publish(
        site,
        "a",
        "stranger",
        {
            wheel("stranger", "1.0"): plain,
            wheel("stranger", "1.1"): f'{plain} data-requires-python="&gt;=3.8"',
            wheel("stranger", "1.2"): f'{plain} data-yanked=""',
            wheel("stranger", "2.0"): f'{plain} data-requires-python=">=3.12"',
        },
    )
    # In both indexes, in one of them as nothing that is a page.
    site.pages["/a/gamma/"] = (200, "text/html", b"<html><p class='<a href=\"gamma-1.0-py3-none-any.whl\">' \x80 &&")
    tags = ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", "cp311-cp311-manylinux_2_34_x86_64")
    files = {wheel("gamma", "1.0", tag=tag): relative for tag in (*tags, "cp312-cp312-win_amd64")}
    publish(site, "b", "gamma", files, base=f'<base href="{site.url}/files/">')
    # Without a hash; a name and a version written otherwise; one that is there as its source alone.
    publish(site, "b", "delta", {wheel("delta", "3.0"): 'href="/files/NAME"', wheel("delta", "3.1"): plain})
    publish(site, "a", "foo-bar", {wheel("Foo_Bar", "2.0.0"): plain, wheel("Foo_Bar", "2.1"): plain})
    publish(site, "a", "source", {sdist("source", "1.0"): plain, sdist("source", "1.1"): plain})
    publish(site, "b", "local", {wheel("local", "1.0+cpu"): plain, wheel("local", "1.1+cpu"): plain})
    pip = ["source", "gamma", "delta==3.0", "Foo.Bar", "local", "alpha"]
    pins = ["source==1.0", "gamma==1.0", "delta==3.0", "foo-bar==2", "local==1.0+cpu", "alpha==1.0", "absent==1"]
    whole = solve(conda_lock, site, tmp_path, pip=pip, pins=pins, whole=True)
    site.seen.clear()
    assert solve(None, site, tmp_path, pip=pip, pins=pins, whole=False) == whole
    packages = {each["name"]: each for each in yaml.safe_load(whole)["package"] if each["manager"] == "pip"}
    chosen = {name: each["url"].rpartition("/")[2] for name, each in packages.items()}
    assert chosen == {
        "alpha": "alpha-1.0-py3-none-any.whl",
        "stranger": "stranger-1.1-py3-none-any.whl",
        "gamma": f"gamma-1.0-{tags[1]}.whl",
        "delta": "delta-3.0-py3-none-any.whl",
        "foo-bar": "Foo_Bar-2.0.0-py3-none-any.whl",
        "local": "local-1.0%2Bcpu-py3-none-any.whl",
        "source": "source-1.0.tar.gz",
    }
    assert "pass" not in whole
    asked = [path for path, _ in site.seen if path.startswith("/a/")]
    assert sorted(asked) == sorted(set(asked))  # no page twice, whoever wanted it


# As the metadata of cuda-toolkit 13.
TOOLKIT = """blas==1.0.*; sys_platform == 'win32' and platform_machine == 'AMD64' and extra == 'blas'
blas==1.0.*; sys_platform == 'linux' and (platform_machine == 'x86_64' or os_name == 'nt') and extra == 'blas'
blas==1.0.*; sys_platform == 'linux' and extra == 'solver'
blas==2.0; sys_platform == 'linux' and extra == 'newer'
compiler>=1; sys_platform == 'linux' and extra == 'blas'
compiler<3; sys_platform == 'linux' and extra == 'compiler'
compiler==9.0; sys_platform == 'win32' and extra == 'compiler'
linker>=2; python_version >= '3.11' and extra == 'solver'
linker<2; python_version < '3.11' and extra == 'solver'
arm; platform_machine == 'aarch64' and extra == 'blas'
intel; platform_machine == 'x86_64'
pypy; platform_python_implementation == 'PyPy'
unasked; extra == 'other'
plain; implementation_name == 'cpython'"""


@pytest.mark.parametrize(("architecture", "machine", "foreign"), [("amd64", "intel", "arm"), ("arm64", "arm", "intel")])
def test_the_lock_is_the_same_with_markers_that_are_settled(
    conda_lock: Loaded, site: Any, tmp_path: Path, architecture: str, machine: str, foreign: str
) -> None:
    """Nothing is in it that only another processor or another Python needs: some of that no index has."""
    needs = "toolkit[blas,compiler,solver]==1.0; platform_system == 'Linux'\nabsent; platform_system == 'Windows'"
    wheels = [wheel("torchlike", "1.0", needs=needs), wheel("toolkit", "1.0", needs=TOOLKIT)]
    wheels += [wheel(name, "1.0") for name in (machine, "unasked", "plain")]
    for name in ("blas", "compiler", "linker"):
        wheels += [wheel(name, version, needs="plain; extra == 'x'") for version in ("1.0.3", "2.0", "3.0", "9.0")]
    by_name: dict[str, dict[tuple[str, bytes], str]] = {}
    for file in wheels:
        by_name.setdefault(file[0].partition("-")[0], {})[file] = 'href="/files/NAME{}"'
    for name, files in by_name.items():
        publish(site, "a", name, files)
    whole, now = (
        solve(conda_lock, site, tmp_path, pip=["torchlike"], pins=[], whole=whole, architecture=architecture)
        for whole in (True, False)
    )
    assert now == whole
    packages = {each["name"]: each for each in yaml.safe_load(now)["package"] if each["manager"] == "pip"}
    chosen = {name: each["version"] for name, each in packages.items()}
    assert {name: chosen.pop(name) for name in ("blas", "compiler", "linker")} == {
        "blas": "1.0.3",
        "compiler": "2.0",
        "linker": "9.0",
    }
    assert chosen == dict.fromkeys(("torchlike", "toolkit", "plain", machine), "1.0")
    needed = {"blas", "compiler", "linker", "plain", machine}
    assert packages["toolkit"]["dependencies"].keys() == needed and foreign not in now


SETTLE = """
import json, sys
from conda_lock._vendor.poetry.core.packages.dependency import Dependency
from kbuild.environment.condalock.settled import settle

def ask(text, values):
    dependency = Dependency.create_from_pep_508(text)
    settled = settle(dependency, {**values, "extra": frozenset(values["extra"])})
    return str(settled.marker), str(dependency.marker) == str(Dependency.create_from_pep_508(text).marker)

json.dump([ask(*each) for each in json.load(sys.stdin)], sys.stdout)
"""


def test_a_marker_is_let_go_of_where_it_holds(conda_lock: Loaded) -> None:
    """As packaging reads it, and the dependency that others have too keeps its own."""
    markers = sorted({text.partition(";")[2].strip() for text in TOOLKIT.splitlines()} - {""})
    linux = {
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "python_version": "3.11",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    asked = [
        (f"some; {marker}", {**linux, **other, "extra": extra})
        for marker in markers
        for other in ({}, {"sys_platform": "win32", "platform_machine": "AMD64"}, {"python_version": "3.10"})
        for extra in ([], ["blas"], ["solver"], ["compiler", "newer"])
    ]
    done = conda_lock.run(SETTLE, json.dumps(asked))
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout)
    for (text, values), (settled, untouched) in zip(asked, answers, strict=True):
        marker = Marker(text.partition("; ")[2])
        holds = any(marker.evaluate({**values, "extra": extra}) for extra in (values["extra"] or [""]))
        assert (settled == "") == holds, (text, values)
        assert untouched
    assert 10 < sum(not settled for settled, _ in answers) < len(answers) - 10


def test_what_lies_in_the_cache_is_not_asked_for_once_more(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    files = {name: wheel(name, "1.0", needs="gamma>=1" if name == "alpha" else "") for name in ("alpha", "beta")}
    files |= {"gamma": wheel("gamma", "1.0"), "delta": wheel("delta", "1.0", needs="gamma")}
    for name, file in files.items():
        publish(site, "a", name, {file: 'href="/files/NAME{}"'})
    pins = [f"{name}==1.0" for name in files]
    whole = solve(conda_lock, site, tmp_path, pip=["alpha", "beta", "delta"], pins=pins, whole=True)
    for name in ("alpha", "beta", "gamma"):
        filename, data = files[name]
        copy = tmp_path / "downloads" / hashlib.sha256(data).hexdigest() / filename
        copy.parent.mkdir(parents=True)
        # One is no longer what it was, and asks for something else.
        copy.write_bytes(wheel("beta", "1.0", needs="absent")[1] if name == "beta" else data)
    site.seen.clear()
    downloads = tmp_path / "downloads"
    again = solve(
        conda_lock, site, tmp_path, pip=["alpha", "beta", "delta"], pins=pins, whole=False, downloads=downloads
    )
    assert again == whole
    asked = {path for path, _ in site.seen if path.startswith("/files/")}
    assert asked == {f"/files/{files[name][0]}" for name in ("beta", "delta")}


@pytest.mark.parametrize("status", [401, 500])
def test_an_index_that_fails_is_told_the_same_way(conda_lock: Loaded, site: Any, tmp_path: Path, status: int) -> None:
    site.pages["/a/alpha/"] = (status, "text/html", b"")
    site.pages["/b/unasked/"] = (500, "text/html", b"")
    plain = 'href="/files/NAME{}"'
    publish(site, "a", "beta", {wheel("beta", "1.0"): plain})
    known = solve(conda_lock, site, tmp_path, pip=["beta", "alpha"], pins=["beta==1.0", "unasked==1"], whole=True)
    assert known.startswith("IndexUnavailable: ")
    assert (
        solve(conda_lock, site, tmp_path, pip=["beta", "alpha"], pins=["beta==1.0", "unasked==1"], whole=False) == known
    )


def test_a_page_without_end_ends_the_lock_at_once(conda_lock: Loaded, site: Any, tmp_path: Path) -> None:
    """poetry would ask for it six times, and wait in between."""
    site.pages["/a/alpha/"] = (200, "text/html", b" " * ((32 << 20) + 1))
    for whole in (True, False):
        site.seen.clear()
        told = solve(conda_lock, site, tmp_path, pip=["alpha"], pins=["alpha==1"], whole=whole)
        assert told.startswith("IndexUnavailable: ") and "the answer has more than 32 MiB" in told
        assert [path for path, _ in site.seen].count("/a/alpha/") == 1

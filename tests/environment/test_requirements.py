import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kbuild.environment.requirements import (
    ArbitraryEquality,
    OtherVersion,
    applicable,
    exact_version,
    marker_environment,
    plain_specifier,
    read_requirements,
)
from kbuild.platform import Platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
RELEASES = st.lists(st.integers(0, 3), min_size=2, max_size=4).map(lambda parts: ".".join(map(str, parts)))
SPECIFIERS = st.lists(
    st.tuples(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "~=", "==="]), RELEASES).map("".join), max_size=3
).map(lambda parts: SpecifierSet(",".join(parts)))


def test_lines_comments_continuations_and_markers() -> None:
    found = read_requirements(
        ["# all", "", "mlflow[extras] == 3.1 ; python_version < '4'  # why", "kedro>=1,\\", "  <2"],
        source="requirements.txt",
        files={},
    )
    assert [str(r) for r in found.requirements] == ['mlflow[extras]==3.1; python_version < "4"', "kedro<2,>=1"]
    assert not found.problems


def test_hashes_belong_to_their_requirement() -> None:
    one, two = "a" * 64, "B" * 64
    found = read_requirements(
        [f"six==1.16.0 ; python_version > '3' --hash=sha256:{one} \\", f"    --hash sha256:{two}  # both", "idna"],
        source="conda.yaml",
        files={},
    )
    assert not found.problems
    assert [str(each) for each in found.requirements] == ['six==1.16.0; python_version > "3"', "idna"]
    assert found.hashes == [('six==1.16.0; python_version > "3"', (one, two.lower()))]


def test_files_are_followed_and_constraints_stay_constraints() -> None:
    files = {
        "requirements.txt": "six\n-c constraints.txt\n-r more/extra.txt",
        "constraints.txt": "six==1.16.0\n-r more/pins.txt",
        "more/extra.txt": "-r ../requirements.txt\n-r pins.txt",
        "more/pins.txt": "idna==3.4",
    }
    found = read_requirements(["-r requirements.txt"], source="conda.yaml", files=files)
    assert found.problems == ["'-r ../requirements.txt' in more/extra.txt: the model has no file ../requirements.txt"]
    assert [str(r) for r in found.constraints] == ["six==1.16.0", "idna==3.4"]
    assert [str(r) for r in found.requirements] == ["six", "idna==3.4"]


def test_a_file_that_names_itself_ends() -> None:
    found = read_requirements(["-r a.txt"], source="conda.yaml", files={"a.txt": "six\n-r a.txt"})
    assert [str(r) for r in found.requirements] == ["six"]


def test_indexes() -> None:
    found = read_requirements(
        ["--index-url https://a.example/simple", "--extra-index-url=https://b.example/simple", "-i https://c.example"],
        source="conda.yaml",
        files={},
    )
    assert (found.index_url, found.extra_index_urls) == ("https://c.example", ["https://b.example/simple"])


def test_which_releases_and_files_are_taken() -> None:
    lines = ["--pre", "--no-binary=a,b", "--only-binary :all:", "--prefer-binary", "--require-hashes"]
    found = read_requirements(lines, source="conda.yaml", files={})
    assert not found.problems
    assert found.choices == [("pre", ""), ("no-binary", "a,b"), ("only-binary", ":all:"), ("prefer-binary", "")]


@pytest.mark.parametrize("line", ["--no-binary :all:", "--no-binary", "--only-binary="])
def test_options_that_choose_nothing_a_lock_can_hold(line: str) -> None:
    found = read_requirements([line], source="conda.yaml", files={})
    assert len(found.problems) == 1 and not found.choices


def test_pages_of_links_in_place_of_an_index() -> None:
    lines = ["--no-index", "-f https://a.example/torch.html", "--find-links=https://b.example/w/"]
    found = read_requirements(lines, source="conda.yaml", files={})
    assert (found.no_index, found.problems) == (True, [])
    assert found.find_links == ["https://a.example/torch.html", "https://b.example/w/"]


@pytest.mark.parametrize(
    "line",
    [
        "git+https://example.org/x.git",
        "https://example.org/x-1-py3-none-any.whl",
        "file:///x.whl",
        "./x",
        "../x",
        "/srv/x",
        "x-1.0-py3-none-any.whl",
        "x.tar.gz",
        # pip's own list of archives, and what has a separator of folders in it (its docs, "Requirement Specifiers").
        "x.tgz",
        "x.tar.xz",
        "X.ZIP",
        "vendored/x",
        "vendored\\x",
        # Arbitrary equality with what is no version (PEP 440): pip takes no such release from an index any more.
        "x===2004d",
        "--index-url",
        "--extra-index-url=",
        "x @ https://example.org/x.whl",
        "x @ git+https://example.org/x.git@main",
        "-e .",
        "--editable .",
        "--find-links wheels",
        "-f wheels",
        "--trusted-host a.example",
        "-r gone.txt",
        "x==1 --hash=sha256:00",
        "x==",
        "two words",
        "--index-url 'open",
    ],
)
def test_what_cannot_be_locked_is_named_with_its_line(line: str) -> None:
    found = read_requirements(["six", line], source="conda.yaml", files={})
    assert [str(r) for r in found.requirements] == ["six"]
    assert len(found.problems) == 1
    assert repr(line) in found.problems[0]


@given(st.text())
def test_any_line_is_read_or_named(line: str) -> None:
    read_requirements([line], source="conda.yaml", files={})


def test_what_an_option_without_its_value_lacks_is_said() -> None:
    (problem,) = read_requirements(["-i"], source="conda.yaml", files={}).problems
    assert problem == "'-i' in conda.yaml: the option --index-url names no index"


def test_the_mark_that_editors_begin_a_file_with_is_no_part_of_it() -> None:
    """pip leaves out a byte order mark (its docs, "Requirements File Format", "Encoding")."""
    found = read_requirements(["-r requirements.txt"], source="conda.yaml", files={"requirements.txt": "\ufeffsix\nx"})
    assert ([str(each) for each in found.requirements], found.problems) == (["six", "x"], [])


def test_markers_are_those_of_the_image() -> None:
    lines = ["a; platform_machine == 'aarch64'", "b; sys_platform == 'win32'", "c; python_version >= '3.11'"]
    assert sorted(applicable(lines, "3.11.7", AMD64)) == ["c"]
    assert sorted(applicable(lines, "3.10.9", ARM64)) == ["a"]


def test_one_package_on_several_lines_is_one_requirement() -> None:
    merged = applicable(["Foo.Bar[x]>=1", "foo-bar[y]<2"], "3.11.7", AMD64)
    assert set(merged) == {"foo-bar"}
    assert merged["foo-bar"].extras == {"x", "y"}
    assert str(merged["foo-bar"].specifier) == "<2,>=1"


def test_a_pin_on_one_line_stays_exact() -> None:
    assert exact_version(applicable(["six==1.16.0"], "3.11.7", AMD64)["six"].specifier) == Version("1.16.0")


@pytest.mark.parametrize(("text", "version"), [("==1.2", "1.2"), ("===1.2", "1.2"), ("==1.*", None), (">=1", None)])
def test_exact_version(text: str, version: str | None) -> None:
    assert exact_version(SpecifierSet(text)) == (Version(version) if version else None)


@given(specifier=SPECIFIERS, release=RELEASES)
def test_a_plain_specifier_allows_the_same_versions(specifier: SpecifierSet, release: str) -> None:
    plain = SpecifierSet(plain_specifier(specifier))
    assert not any(part.operator in ("~=", "===") for part in plain)
    arbitrary = any(part.operator == "===" for part in specifier)
    if not arbitrary:  # === compares texts, so 1.0 and 1.0.0 differ
        assert plain.contains(release) == specifier.contains(release)


@pytest.mark.parametrize("dependency_first", [False, True])
@pytest.mark.parametrize(
    ("asked", "taken", "fits"),
    [
        ("dep===1.0", "1.0", True),
        ("Dep===1.0", "1.0+cpu", False),
        ("dep===1.0+cpu", "1.0", False),
        ("dep===1.0+CPU.1", "1.0+cpu-1", True),
        ("dep==1.0", "1.0+cpu", True),
        ("dep===1.0; python_version < '3'", "1.0+cpu", True),
        ("dep===1.0; extra == 'gpu'", "1.0+cpu", True),
        ("dep; platform_machine === 'x86_64'", "1.0+cpu", True),
        ("no requirement === at all", "1.0+cpu", True),
    ],
)
def test_arbitrary_equality_is_looked_at_again(asked: str, taken: str, fits: bool, dependency_first: bool) -> None:
    """PEP 440, "Arbitrary equality": of a version without a local part it allows none with one."""
    exact = ArbitraryEquality(marker_environment("3.11.7", AMD64))
    exact.asks("acme", "1.0", ["dep===9"])
    exact.asks("Acme", "2.0", ["other", asked])
    releases = [("acme", "2.0"), ("dep", taken)]
    try:
        for name, version in releases[:: -1 if dependency_first else 1]:
            exact.take(name, version)
    except OtherVersion as error:
        assert not fits and "acme 2.0 asks for dep===1.0" in str(error)
    else:
        assert fits

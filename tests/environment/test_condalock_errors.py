"""The outputs are conda-lock 4.0.3's own, with its solver py-rattler 0.28; only traceback frames and paths are cut."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.version import Version

from kbuild.environment.condalock.failures import explain_failure, lagging_requirement
from kbuild.errors import (
    IndexUnavailable,
    KbuildError,
    PackageNotFound,
    ResolverFailed,
    SourceOnlyPackage,
    VersionConflict,
)

OUTPUTS = Path(__file__).parent / "condalock_outputs"
OFFERED = {
    "six": {"1.15.0": "six-1.15.0-py3-none-any.whl", "1.17.0": "six-1.17.0-py3-none-any.whl", "1.18rc1": "s.whl"},
    "docopt": {"0.6.2": "docopt-0.6.2.tar.gz"},
    "urllib3": {"1.26.2": "u.whl", "2.8.0": "u.whl"},
    "mlflow-tracing": {"3.17.2": "m.whl", "3.17.1": "m.whl"},
}


def releases(name: str) -> Mapping[Version, list[str]]:
    return {Version(version): [file] for version, file in OFFERED.get(name, {}).items()}


def explain(output: str) -> KbuildError:
    return explain_failure((OUTPUTS / f"{output}.txt").read_text(), releases=releases)


@pytest.mark.parametrize(
    ("output", "kind", "said", "hint"),
    [
        ("unknown_package", PackageNotFound, "no package index has kbuild-no-such-package-xyz", "check the name"),
        ("no_such_version", PackageNotFound, "has no six 99.9", "the newest it has of six: 1.17.0, 1.15.0"),
        ("constraint_gone", PackageNotFound, "has no urllib3 1.26.999", "2.8.0, 1.26.2"),
        (
            "index_lags",
            PackageNotFound,
            "has no mlflow-tracing 3.18.0, which mlflow 3.18.0 requires",
            "3.17.2, 3.17.1; ask for a version of mlflow",
        ),
        ("source_only", SourceOnlyPackage, "of docopt 0.6.2, the package index has only source", "build a wheel"),
        (
            "conflict",
            VersionConflict,
            "depends on requests (==2.31.0) which depends on urllib3 (>=1.21.1,<3), urllib3 is required. "
            "So, because the model depends on urllib3 (<1.21), version solving failed.",
            "loosen",
        ),
        ("transitive_conflict", VersionConflict, "pandas (==2.2.0) which depends on numpy (>=1.23.2,<2)", "loosen"),
        ("index_refused_connection", IndexUnavailable, "127.0.0.1:9 does not answer: Connection refused", "PIP_INDEX"),
        ("index_unknown_host", IndexUnavailable, "kbuild.invalid:80 does not answer: Name or service not", "network"),
        ("index_500", IndexUnavailable, "127.0.0.1:8977 does not answer: 500 Server Error", "network"),
        (
            "index_without_end",
            IndexUnavailable,
            "127.0.0.1:41685 does not answer: the answer has more than 32",
            "network",
        ),
        ("index_401", IndexUnavailable, "refuses http://127.0.0.1:8978/simple/six/", "user and password"),
        ("conda_unknown_package", PackageNotFound, "no conda channel has nosuchpkg", "check the name"),
        ("conda_no_such_version", PackageNotFound, "no conda channel has python 3.12.*", "--interpreter captured"),
        ("conda_conflict", VersionConflict, "needsnew 1 would require └─ python >=3.12", "loosen"),
        ("conda_glibc", VersionConflict, "hi 1 would require └─ __glibc >=2.99", "loosen"),
        ("channel_down", IndexUnavailable, "channel at 127.0.0.1:9 does not answer: Connection refused", "captured"),
    ],
)
def test_what_conda_lock_says_becomes_one_clear_line(
    output: str, kind: type[KbuildError], said: str, hint: str
) -> None:
    error = explain(output)
    assert type(error) is kind
    assert said in error.message
    assert hint in (error.hint or "")
    assert "\n" not in error.message


def test_an_interpreter_of_this_machine_is_no_way_out_alone_where_packages_need_a_channel() -> None:
    for name in ("channel_down", "conda_no_such_version"):
        output = (OUTPUTS / f"{name}.txt").read_text()
        hint = explain_failure(output, releases=releases, conda=("numpy 1.26.*", "six")).hint or ""
        assert hint.endswith(
            "name numpy 1.26.*, six under pip: in conda_env, and log the model again, and take this machine's "
            "interpreter (--interpreter captured)"
        )


def test_every_recorded_output_is_explained() -> None:
    unexplained = [path.name for path in OUTPUTS.iterdir() if type(explain(path.stem)) is ResolverFailed]
    assert unexplained == []


def test_a_release_that_asks_for_another_version_than_is_taken_is_a_conflict() -> None:
    said = "acme 1.0 asks for dep===1.0, and dep 1.0+cpu is taken"
    error = explain_failure(
        f"Traceback\n  x\nkbuild.environment.requirements.OtherVersion: {said}\n", releases=releases
    )
    assert type(error) is VersionConflict and said in error.message and error.hint


def test_certificates_and_passwords_are_named_as_what_they_are() -> None:
    tls = (
        "requests.exceptions.SSLError: HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded with"
        " url: /simple/x/ (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate"
        " verify failed: self-signed certificate (_ssl.c:1006)')))"
    )
    error = explain_failure(tls, releases=releases)
    assert isinstance(error, IndexUnavailable) and "PIP_CERT=FILE" in str(error.hint)
    assert error.message == "the certificate of the package index index.example:443 is not trusted"
    channel = (
        "Could not lock the environment for platform linux-64\nCondaHTTPError: error sending request\nCaused by: HTTP"
        " status client error (401 Unauthorized) for url (http://me:pw@conda.corp/cc/noarch/repodata.json)\n"
        "    Command: x"
    )
    error = explain_failure(channel, releases=releases, conda=("numpy",))
    assert isinstance(error, IndexUnavailable) and "USER:PASSWORD@HOST" in str(error.hint)
    assert error.message == "the conda channel at conda.corp refuses: 401 Unauthorized"


def test_a_virtual_package_is_none_that_a_channel_could_have() -> None:
    said = (OUTPUTS / "conda_unknown_package.txt").read_text().replace("nosuchpkg", "__cuda")
    error = explain_failure(said, releases=releases)
    assert error.message.startswith("no conda channel has __cuda") and "--base" in str(error.hint)


def test_other_failures_end_in_their_last_line_without_secrets() -> None:
    error = explain_failure("Traceback\n  File x\nBoom: https://me:secret@example.org/ fell over\n", releases=releases)
    assert type(error) is ResolverFailed
    assert error.message == "conda-lock failed: Boom: https://***@example.org/ fell over"
    assert explain_failure("", releases=releases).message == "conda-lock failed: it said nothing"


def test_an_index_that_goes_down_while_the_failure_is_looked_into() -> None:
    def down(name: str) -> Mapping[Version, list[str]]:
        raise IndexUnavailable("down")

    output = (OUTPUTS / "no_such_version.txt").read_text()
    assert explain_failure(output, releases=down).message == "down"


def test_the_release_that_the_index_is_behind_of() -> None:
    assert lagging_requirement((OUTPUTS / "index_lags.txt").read_text()) == ("mlflow", "3.18.0")
    assert lagging_requirement((OUTPUTS / "no_such_version.txt").read_text()) is None

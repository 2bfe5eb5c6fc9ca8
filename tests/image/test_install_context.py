import hmac
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import BaseImageError, PlatformError
from kbuild.image.engines.install_context import (
    _copy_tools,
    context_sources,
    install_secrets,
    place_install_base,
    write_install_context,
)
from kbuild.plan.render import Template
from kbuild.platform import Platform, host_platform

HERE = Platform("linux", "amd64")
PACKAGE = LockedPackage(
    name="churn", version="1", manager="pip", platform=HERE, url="https://files.example/churn-1-py3-none-any.whl",
    sha256="0" * 64,
)  # fmt: skip


def locked(*packages: LockedPackage, **options: Any) -> Any:
    lockfile = SimpleNamespace(for_platform=lambda platform: packages, packages=packages)
    indexes = Indexes(
        urls=(
            "https://${KBUILD_INDEX_FILES_EXAMPLE_USER}:${KBUILD_INDEX_FILES_EXAMPLE_PASSWORD}@files.example/simple",
        ),
        environment={"KBUILD_INDEX_FILES_EXAMPLE_USER": "me", "KBUILD_INDEX_FILES_EXAMPLE_PASSWORD": "s3cr3t"},
    )
    return SimpleNamespace(lockfile=lockfile, indexes=indexes, environ={"PATH": "/bin", "OTHER": "x"}, **options)


def test_what_reaches_the_context_is_what_copy_takes_from_it() -> None:
    dockerfile = (
        'FROM a AS kbuild-install\nCOPY ["kbuild-install/", "/kbuild-install/"]\nCOPY ./code/x /\n'
        'FROM scratch\nCOPY --from=kbuild-install ["interpreter/", "/"]\nCOPY --chown=1 model/ /\n'
    )
    assert context_sources(dockerfile) == {"kbuild-install", "code", "model"}


def test_secrets_are_those_of_the_packages_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine files.example login you password hidden\nmachine other.example login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    own = "a key that nobody guesses"
    monkeypatch.setenv("KBUILD_CACHE_KEY", own)
    secrets = install_secrets(locked(PACKAGE), HERE)
    assert list(secrets) == ["kbuild-indexes"]
    value = json.loads(str(secrets["kbuild-indexes"]))
    assert value["environment"] == {
        "KBUILD_INDEX_FILES_EXAMPLE_USER": "me",
        "KBUILD_INDEX_FILES_EXAMPLE_PASSWORD": "s3cr3t",
    }
    assert value["netrc"] == "machine files.example login you password hidden\n"
    # The builder's cache is vouched for by a key that tells nothing of this machine's.
    assert value["cache_key"] == hmac.new(own.encode(), b"the cache of a builder", "sha256").hexdigest()
    known = locked(PACKAGE)
    known.environ["REQUESTS_CA_BUNDLE"] = str(netrc)
    assert install_secrets(known, HERE)["kbuild-certificates"] == netrc


@pytest.mark.slow
def test_the_tools_that_are_sent_need_nothing_else(tmp_path: Path) -> None:
    _copy_tools(tmp_path)
    code = (
        "import kbuild.image.packages.install_worker, rattler, kbuild\n"
        "from kbuild.managers.conda_names import known_names\n"
        "print(kbuild.__file__) if known_names()['pytorch'] == 'torch' else None"
    )
    done = subprocess.run(
        # -S: what is installed here is not found
        [sys.executable, "-S", "-s", "-B", "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "kbuild/__init__.py"), done.stderr


def test_another_platform_is_refused(tmp_path: Path) -> None:
    other = Platform("linux", "arm64" if host_platform().architecture == "amd64" else "amd64")
    bundle: Any = None
    with pytest.raises(PlatformError, match="its tools are sent from here"):
        write_install_context(locked(), other, (), bundle, owned=False, into=tmp_path)


def test_the_install_base_is_pulled_by_the_builder() -> None:
    template, contexts = place_install_base(Template(install_base="registry.example/python:3.13"), HERE)
    assert (template.install_base, contexts) == ("registry.example/python:3.13", {})
    with pytest.raises(BaseImageError, match="has no Python"):
        place_install_base(replace(template, install_base="debian:bookworm"), HERE)

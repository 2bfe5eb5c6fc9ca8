from pathlib import Path

import pytest

from kbuild.digest import Digest, digest_bytes
from kbuild.environment.lockfile import LockedPackage, Lockfile
from kbuild.model.bundle import ModelBundle, ModelFacts, ModelFile
from kbuild.plan.base import ResolvedBase
from kbuild.plan.make import Ingredients
from kbuild.platform import Platform

AMD64 = Platform("linux", "amd64")


def digest(text: str) -> Digest:
    return digest_bytes(text.encode())


def package(name: str, manager: str) -> LockedPackage:
    return LockedPackage(
        name=name,
        version="1.0",
        manager=manager,  # type: ignore[arg-type]
        platform=AMD64,
        url=f"https://index.example/{name}-1.0.whl",
        sha256=digest(name).hex,
    )


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    root = tmp_path / "model"
    files = {"MLmodel": "flavors: {}", "code/pkg/__init__.py": "x = 1\n", "artifacts/model.pkl": "pickle"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return ModelBundle(
        root=root,
        files=tuple(ModelFile(path=n, size=len(t), digest=digest(t)) for n, t in sorted(files.items())),
        facts=ModelFacts(
            uri="models:/m-1",
            name="churn",
            run_id="b" * 32,
            model_id="m-1",
            created=1795383919,
            python_version="3.11.7",
            mlflow_version="3.17.2",
            loader_module="mlflow.pyfunc.model",
            flavors=("python_function",),
            conda_env={},
            constraints=None,
            signature={"inputs": [{"name": 'a "quoted" $name', "type": "double"}]},
            input_example=None,
            record={"git_commit": "c" * 40},
        ),
    )


@pytest.fixture
def lockfile() -> Lockfile:
    return Lockfile(
        content=b"lock",
        packages=(package("python", "conda"), package("numpy", "pip"), package("mlflow", "pip")),
        platforms=(AMD64,),
        channels=("conda-forge",),
        input_digest=digest("input"),
    )


@pytest.fixture
def base(tmp_path: Path) -> ResolvedBase:
    (tmp_path / "base").mkdir()
    return ResolvedBase(kind="debs", name="debian:bookworm", digest=digest("base"), path=tmp_path / "base")


@pytest.fixture
def ingredients(bundle: ModelBundle, lockfile: Lockfile, base: ResolvedBase) -> Ingredients:
    return Ingredients(
        bundle=bundle, lockfile=lockfile, base=base, platform=AMD64, runtime=digest("runtime"), recipe="1"
    )

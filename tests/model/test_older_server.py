"""Models of a server of MLflow 2, which keeps them among a run's artifacts and knows nothing of logged models."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import pytest
from packaging.version import Version

sys.path.insert(0, str(Path(__file__).parent))

from fake_tracking import API, RUN, FakeTracking, fake_tracking

from kbuild.errors import RunWithoutModel
from kbuild.model.fetch import MlflowStore
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import DirectStore

pytestmark = pytest.mark.filterwarnings("ignore")
MLMODEL = "flavors: {python_function: {env: conda.yaml, loader_module: mlflow.pyfunc.model, python_version: 3.11.7}}\n"
PAGE = b"<!doctype html>\n<title>404 Not Found</title>\n"


class OlderTracking:
    """``FakeTracking`` as the server of MLflow 2.22.5 answers: 404, as a page, to whatever is about logged models."""

    def __init__(self, fake: FakeTracking) -> None:
        self.fake, self.known = fake, fake.answer

    def __call__(self, method: str, path: str, values: dict[str, object]) -> tuple[int, object]:
        if path == f"{API}/runs/search":
            return 200, {"runs": []}
        return (404, PAGE) if path.startswith(f"{API}/logged-models") else self.known(method, path, values)


@pytest.mark.slow
@pytest.mark.skipif(
    Version(mlflow.__version__) < Version("3.2"), reason="MLflow 3.1 gives up where a server knows no logged models"
)
def test_a_run_is_built_by_its_id_and_by_the_name_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_tracking(tmp_path / "artifacts") as fake:
        monkeypatch.setattr(fake, "answer", OlderTracking(fake))
        stores = (DirectStore(tracking_uri=fake.uri), MlflowStore(tracking_uri=fake.uri))
        for store in stores:
            with pytest.raises(RunWithoutModel):
                store.fetch(ModelReference.parse(RUN), tmp_path / "none")
        own = fake.artifacts / "1" / RUN / "artifacts"
        (own / "model").mkdir(parents=True)
        (own / "plots").mkdir()
        (own / "model/MLmodel").write_text(f"run_id: {RUN}\n{MLMODEL}")
        (own / "model/conda.yaml").write_text("dependencies: [python=3.11.7]\n")
        (own / "kbuild").mkdir()
        (own / "kbuild/conda-lock.yml").write_text("version: 1\n")
        for store in stores:
            for text in (RUN, f"runs:/{RUN}/model"):
                bundle = store.fetch(ModelReference.parse(text), tmp_path / "model")
                assert bundle.facts.run_id == RUN
            found = store.download(RUN, "kbuild/conda-lock.yml", tmp_path / "lock")
            assert found is not None and found.read_text() == "version: 1\n"
            assert store.download(RUN, "kbuild/none.yml", tmp_path / "lock") is None

"""A model that was logged before the modules moved: what is stored must load for ever.

The archive is a whole model folder, its code included, of a Kedro run with kbuild 0.1.0 at commit 4d61b67. Its
pipeline gives ``price * count * 1.25 - bonus``.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from loaded import Loaded

from kbuild.model.bundle import read_bundle

ARCHIVE = Path(__file__).parent / "data" / "stored_model_0.1.0.tar.xz"
TOTALS = [2.0 * 1 * 1.25 - 0.5, 4.5 * 2 * 1.25 - 0.5, 8.0 * 5 * 1.25 - 0.5]
ASK = {
    "mlflow": """
import mlflow, sys, pandas as pd
loaded = mlflow.pyfunc.load_model(sys.argv[1])
answer = list(loaded.predict(pd.read_json(sys.argv[2], orient="split"))["total"])
""",
    "server": """
import sys
from pathlib import Path
from kbuild.serving.answer.model import load_model
from kbuild.serving.answer.reply import JSON
model = load_model(Path(sys.argv[1]), import_mlflow="lazy")
body = Path(sys.argv[1], "serving_input_example.json").read_bytes()
reply, short = model.answer(body, JSON)
assert short and reply.status == 200 and "mlflow" not in sys.modules, reply
assert model.slow(body, JSON).body == reply.body
answer = [row["total"] for row in __import__("json").loads(reply.body)["predictions"]]
""",
}
NOTHING_YET = "import sys; assert not [name for name in sys.modules if name.partition('.')[0] == 'kbuild']\n"
TELL = "\nimport json, kbuild; print(json.dumps([answer, kbuild.__file__]))"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def ask(stored: Path, code: str, cwd: Path, first: str, with_mlflow: Loaded | None = None) -> tuple[list[float], str]:
    example = stored / "input_example.json"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # No package of this kbuild is on the path but where the code imports it first.
    program, argv = NOTHING_YET + first + code + TELL, ("-c", str(stored), str(example))
    if with_mlflow is not None:
        done = with_mlflow.run(program, argv=argv, env=env, cwd=cwd)
    else:
        command = [sys.executable, "-W", "ignore", "-c", program, *argv[1:]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)
    assert done.returncode == 0, done.stderr
    answer, place = json.loads(done.stdout.splitlines()[-1])
    return answer, place


@pytest.mark.slow
@pytest.mark.parametrize("how", ASK)
def test_it_answers_with_this_kbuild(stored: Path, tmp_path: Path, how: str, with_mlflow: Loaded) -> None:
    # The server is there without MLflow, which it imports itself.
    answer, place = ask(stored, ASK[how], tmp_path, "import kbuild\n", with_mlflow if how == "mlflow" else None)
    assert answer == TOTALS
    assert not Path(place).is_relative_to(stored)


def test_it_answers_with_its_own_code(stored: Path, tmp_path: Path, with_mlflow: Loaded) -> None:
    first = "import sys; sys.path.insert(0, sys.argv[1] + '/code')\n"
    answer, place = ask(stored, ASK["mlflow"], tmp_path, first, with_mlflow)
    assert answer == TOTALS
    assert Path(place).is_relative_to(stored)


def test_a_build_reads_it(stored: Path) -> None:
    bundle = read_bundle(stored)
    assert (bundle.facts.python_version, bundle.facts.name) == ("3.11.7", "model")

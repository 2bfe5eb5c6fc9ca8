"""What travels in models and images: only what runs there."""

import json
import shutil
from pathlib import Path

from loaded import Loaded

import kbuild
from kbuild.shipped import image_files, model_files

IMPORT = """
import importlib, json, sys
for name in json.loads(sys.argv[2]):
    # What is started as a program does its work when it is imported.
    if not name.endswith("__main__"):
        importlib.import_module(name)
found = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("kbuild")}
print(json.dumps(found))
"""


NOTHING_YET = "import sys; assert not [name for name in sys.modules if name.partition('.')[0] == 'kbuild']\n"

LEFT_BEHIND = """
import sys; sys.path.insert(0, sys.argv[1])
from kbuild import KedroPipelineModel, PipelineML, build_image, pipeline_ml_factory
assert KedroPipelineModel.__module__ == "kbuild.training.pyfunc" and not isinstance(1, PipelineML)
for each in (PipelineML, build_image, pipeline_ml_factory):
    try:
        each("a", b=1)
    except ImportError as error:
        print(error)
"""


def test_a_served_file_may_import_what_stays_behind(tmp_path: Path, with_mlflow: Loaded) -> None:
    """Nodes may stand beside the factory that binds their pipelines."""
    for name, file in model_files().items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    done = with_mlflow.run(NOTHING_YET + LEFT_BEHIND, argv=("-c", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    names = ("PipelineML", "build_image", "pipeline_ml_factory")
    assert done.stdout.splitlines() == [
        f"kbuild.{name} does not travel with models: it is of training or building" for name in names
    ]


def test_all_that_ships_is_importable_with_nothing_else_of_kbuild(tmp_path: Path, with_mlflow: Loaded) -> None:
    names = []
    for name, file in image_files().items():
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        if name.endswith(".py"):
            names.append(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    first = "import sys; sys.path.insert(0, sys.argv[1])\n"
    done = with_mlflow.run(NOTHING_YET + first + IMPORT, argv=("-c", str(tmp_path), json.dumps(names)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) >= {name for name in names if not name.endswith("__main__")}
    assert all(Path(place).is_relative_to(tmp_path) for place in found.values())


def test_no_recorder_dataset_or_configuration_ships() -> None:
    assert {name.split("/")[1] for name in image_files()} == {
        *("__init__.py", "_version.py", "answers.py", "errors.py"),
        *("served", "serving", "training"),
    }
    training = {name for name in image_files() if "/training/" in name}
    assert training == {"kbuild/training/__init__.py", "kbuild/training/pyfunc.py"}
    assert set(model_files()) < set(image_files())
    root = Path(kbuild.__file__).parent.parent
    assert all(file == root / name and file.is_file() for name, file in image_files().items())


def test_what_ships_is_small() -> None:
    """Of training's modules a third at most: they were 4,258 lines, and all of them shipped.

    The table of error classes, which each kind of failure of a build makes longer, is not counted.
    """
    counted = [file for name, file in model_files().items() if name != "kbuild/errors.py"]
    assert sum(len(file.read_text("utf-8").splitlines()) for file in counted) <= 4258 / 3

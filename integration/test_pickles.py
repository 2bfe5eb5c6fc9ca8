"""The corpus of disguised pickles (tests/disguised.py), each executed to see that it does harm, and who finds it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from disguised import Disguised, disguised
from environments import install
from picklescan.scanner import SafetyLevel, scan_bytes, scan_numpy

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject
from kbuild.model.bundle import read_bundle

TESTS = Path(__file__).parents[1] / "tests"
# Loads every pickle in a process of its own, with little time and nowhere to write but its folder.
EXECUTE = """
import json, os, resource, shutil, sys, time
sys.path.insert(0, sys.argv[1])
import joblib, mlflow.utils.process, pandas, scipy.stats, sklearn.base, yaml
from disguised import LOADERS, disguised
folder = sys.argv[2]
target = os.path.join(folder, "mark")
ran = []
for number, case in enumerate(disguised(target)):
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        try:
            LOADERS[case.loader](case.data)
        except BaseException:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
    for _ in range(100):  # some start a program and do not wait for it
        if any(name.startswith("mark") for name in os.listdir(folder)):
            ran.append(number)
            break
        time.sleep(0.01)
print(json.dumps(ran))
"""


def test_every_disguised_pickle_that_executes_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXECUTE, TESTS, folder], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ran = set(json.loads(done.stdout.splitlines()[-1]))
    cases = list(disguised(str(folder / "mark")))
    print(f"{len(ran)} of {len(cases)} execute; not: {[c.name for n, c in enumerate(cases) if n not in ran]}")
    assert len(ran) >= 150
    model = tmp_path / "model"
    (model / "artifacts").mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {python_function: {loader_module: x, env: {conda: conda.yaml}}}\n")
    (model / "conda.yaml").write_text("dependencies: [python=3.11.7]\n")
    for number in ran:
        (model / f"artifacts/{number}").write_bytes(cases[number].data)
    result = PickleCheck().run(Subject(reference="x", kind="model", bundle=read_bundle(model)))
    found = {int(each.where.removeprefix("artifacts/")) for each in result.findings}
    others = {number for number in ran if picklescan_finds(cases[number])}
    theirs = modelscan_finds({number: cases[number] for number in ran}, tmp_path)
    print(f"kbuild finds {len(found & ran)} of {len(ran)}, picklescan {len(others)}, modelscan {len(theirs)}")
    assert [cases[number].name for number in sorted(ran - found)] == []


def modelscan_finds(cases: Mapping[int, Disguised], folder: Path) -> set[int]:
    """Under each of the names that have it look for pickles; in an environment of its own: it pins much."""
    named = folder / "named"
    named.mkdir()
    for number, case in cases.items():
        for suffix in (".pkl", ".npy", ".pt", ".zip"):
            (named / f"{number}{suffix}").write_bytes(case.data)
    install(folder / "modelscan", ["modelscan==0.8.8"], dict(os.environ))
    command = [folder / "modelscan/bin/modelscan", "-p", named, "-r", "json", "-o", folder / "told.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (1, 2), done.stderr[
        -2000:
    ]  # of these files it finds some; errors, beside that, in others
    return {int(each["source"].partition(".")[0]) for each in json.loads((folder / "told.json").read_text())["issues"]}


def picklescan_finds(case: Disguised) -> bool:
    """By its content alone, or as its name would let picklescan take it: whichever finds more."""
    results = []
    for name in ("x", "x.pkl", "x.npy", "x.zip"):
        with contextlib.suppress(Exception):  # a scanner that stops finds nothing
            results.append(scan_bytes(io.BytesIO(case.data), name, f".{name.partition('.')[2]}"))
    with contextlib.suppress(Exception):
        results.append(scan_numpy(io.BytesIO(case.data), "x.npy"))
    return any(found.safety is not SafetyLevel.Innocuous for result in results for found in result.globals)

"""The pages that people see, in a real browser: what they do, and that everybody can use them (axe-core)."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser, browser, chromedriver, read_axe
from servers import ours
from tool import BIN, Trained

from kbuild.audit.finding import CheckResult, Finding, Severity
from kbuild.audit.policy import Policy
from kbuild.audit.report.page import page
from kbuild.audit.report.report import make_report
from kbuild.audit.report.sbom import make_sbom
from kbuild.audit.sizes.values import ImageSizes, Kind, LayerSize, PackageSize
from kbuild.audit.subject import Subject
from kbuild.cli.help import read_pages, write_html

TAB, ENTER = "\ue004", "\ue007"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chromedriver(tmp_path_factory.mktemp("driver")) as url:
        yield url


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return read_axe(tmp_path_factory.mktemp("axe"))


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo's model, served."""
    with ours(trained.model, tmp_path_factory.mktemp("server"), KBUILD_WORKERS="1") as (url, _):
        yield url


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def window(driver: str, downloads: Path) -> Iterator[Browser]:
    """One for all tests: to open it takes longer than most of them."""
    with browser(driver, downloads / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def recorded(trained: Trained) -> list[dict[str, Any]]:
    """What training answered the example with."""
    found: list[dict[str, Any]] = json.loads((trained.model / "recorded_prediction.json").read_text())["predictions"]
    return found


def find_violations(window: Browser, axe: str) -> dict[str, list[str]]:
    """Of the page as it is now, by how it is looked at."""
    found = {}
    for dark, width in ((False, 1000), (True, 360)):
        window.look_as(dark=dark, width=width)
        found[f"{'dark' if dark else 'light'}, {width} px"] = window.violations(axe)
    return {look: violations for look, violations in found.items() if violations}


def answered(form: str) -> str:
    return f"document.querySelector('{form} .result tbody') !== null"


def refused(form: str) -> str:
    return f"document.querySelector('{form} .result.bad') !== null"


def test_a_person_tries_the_model_with_the_keyboard(
    server: str, window: Browser, recorded: list[dict[str, Any]]
) -> None:
    first = recorded[0]
    window.go(server)
    for _ in range(10):
        window.press(TAB)
        if window.run("return document.activeElement.id") == "i0":
            break
    window.press(ENTER)
    window.wait(answered("#row"))
    assert window.text("#row .result tbody") == f"{first['progression']} {str(first['high_risk']).lower()}"
    window.type("#i0", "old")
    window.press(ENTER)
    window.wait(refused("#row"))
    assert window.text("#i0-wrong") == "“old” is not a number"
    assert window.run("return [document.activeElement.id, document.activeElement.ariaInvalid]") == ["i0", "true"]
    # What only the server knows to be wrong, as MLflow says it, stands at its field as well.
    said = "Invalid input. Error: Incompatible input types for column bmi. Can not safely convert object to float64."
    answer = f"async () => new Response({json.dumps(json.dumps({'message': said}))}, {{status: 400}})"
    window.type("#i0", "50")
    window.run(f"window.real = fetch; window.fetch = {answer}")
    window.press(ENTER)
    window.wait("document.querySelector('#row .result p') !== null")
    assert window.text("#row .result h3") == "The model does not take these values."
    assert window.text("label[for=i2]") == "bmi" and window.text("#i2-wrong").startswith("Incompatible input types")
    window.run("window.fetch = window.real")
    window.run("const e = document.getElementById('example'); e.value = '1'; e.dispatchEvent(new Event('change'))")
    window.click("#row button")
    window.wait(answered("#row"))
    assert str(recorded[1]["progression"]) in window.text("#row .result tbody")
    assert window.complaints() == []


SEVERAL = """
import sys, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas as pd
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kbuild import pipeline_ml_factory
from kbuild.recording.record import record_model

def fit(orders, rates):
    return 2.0

def price(orders, rates, factor):
    joined = orders.merge(rates, on="kind")
    return pd.DataFrame({"price": joined["count"] * joined["rate"] * factor})

mlflow.set_tracking_uri(f"sqlite:///{sys.argv[1]}/mlflow.db")
data = {
    "orders": pd.DataFrame({"kind": ["a", "b"], "count": [3, 5]}),
    "rates": pd.DataFrame({"kind": ["a", "b"], "rate": [1.5, 2.0]}),
}
bound = pipeline_ml_factory(
    Pipeline([node(fit, ["orders", "rates"], "factor")]),
    Pipeline([node(price, ["orders", "rates", "factor"], "prices")]),
    ["orders", "rates"],
)
run = mlflow.MlflowClient().create_run("0")
catalog = DataCatalog({**{name: MemoryDataset(each) for name, each in data.items()}, "factor": MemoryDataset(2.0)})
recorded = record_model(bound, catalog, run_id=run.info.run_id)
print(mlflow.artifacts.download_artifacts(recorded.model_uri))
"""


def test_a_model_of_several_inputs_is_asked_from_its_page(window: Browser, axe: str, tmp_path: Path) -> None:
    script = tmp_path / "several.py"
    script.write_text(SEVERAL)
    done = subprocess.run([BIN / "python", script, tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with ours(Path(done.stdout.splitlines()[-1]), tmp_path, KBUILD_WORKERS="1") as (url, _):
        window.go(url)
        assert window.text("#row h2") == "One request"
        orders = json.loads(window.run("return document.getElementById('i0').value"))
        assert orders == [{"kind": "a", "count": 3}, {"kind": "b", "count": 5}]
        window.click("#row .actions button")
        window.wait(answered("#row"))
        # Rows 1 and 2: 3 * 1.5 * 2 and 5 * 2 * 2.
        assert window.text("#row .result tbody").split() == ["1", "9", "2", "20"]
        window.type("#i1", "")
        window.click("#row .actions button")
        window.wait(refused("#row"))
        assert window.text("#i1-wrong") == "JSON is missing"
        assert find_violations(window, axe) == {} and window.complaints() == []
        window.go(f"{url}/docs")
        assert "kind: text" in window.text("table") and "rate: number" in window.text("table")
        assert find_violations(window, axe) == {} and window.complaints() == []


def test_tables_go_in_and_come_out(
    server: str, window: Browser, trained: Trained, recorded: list[dict[str, Any]], axe: str, downloads: Path
) -> None:
    split = json.loads((trained.model / "serving_input_example.json").read_text())["dataframe_split"]
    names = split["columns"]
    lines = [[*names[::-1], "note"], *([*row[::-1], 'a "b", c'] for row in split["data"] * 6)]
    with (downloads / "rows.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows(lines)
    window.go(server)
    assert find_violations(window, axe) == {}
    window.run("for (const each of document.querySelectorAll('details')) each.open = true")
    window.type("#file", str(downloads / "rows.csv"))
    window.wait("document.querySelector('#pasted').value !== ''")
    window.click("#rows .actions button")
    window.wait(answered("#rows"))
    assert window.text("#rows h3") == f"{len(lines) - 1} predictions" and "note" in window.text("#note")
    assert "progression" in window.text("#rows figcaption") and window.find("#rows figure svg rect")
    assert find_violations(window, axe) == {}
    window.click("#rows .result button")
    found = downloads / "predictions.csv"
    for _ in range(100):
        if found.exists():
            break
        time.sleep(0.05)
    with found.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["progression"]) for row in rows] == [each["progression"] for each in recorded] * 6
    assert rows[0]["note"] == 'a "b", c' and float(rows[0][names[0]]) == split["data"][0][0]
    window.type("#pasted", "sex,age\n1.5,old\n")
    window.click("#rows .actions button")
    window.wait(refused("#rows"))
    assert "missing: bmi" in window.text("#rows .result")
    assert find_violations(window, axe) == {}
    window.click("#json button")
    window.wait(answered("#json"))
    assert window.text("#json h3") == f"{len(recorded)} predictions"
    assert window.complaints() == []


def test_the_examples_of_the_docs_run_as_they_are_shown(
    server: str, window: Browser, trained: Trained, recorded: list[dict[str, Any]], axe: str, tmp_path: Path
) -> None:
    window.go(f"{server}/docs")
    assert find_violations(window, axe) == {}
    text = {name: window.run(f"return {name}.textContent") for name in ("curl", "python", "script", "batch")}
    first = recorded[:1]
    curl = subprocess.run(["bash", "-c", text["curl"]], check=True, capture_output=True, text=True)
    assert json.loads(curl.stdout)["predictions"] == first
    python = subprocess.run([BIN / "python", "-c", text["python"]], check=True, capture_output=True, text=True)
    assert python.stdout.strip() == str(first)
    script = text["script"].replace("console.log", "done")
    body = f"const done = arguments[0]; (async () => {{ {script} }})().catch(e => done(String(e)))"
    assert window.run(body, later=True) == first
    split = json.loads((trained.model / "serving_input_example.json").read_text())["dataframe_split"]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([split["columns"], *split["data"]])
    subprocess.run([BIN / "python", "-c", text["batch"]], cwd=tmp_path, check=True)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert [float(row["progression"]) for row in csv.DictReader(file)] == [each["progression"] for each in recorded]
    window.click("button.copy")
    window.wait("document.querySelector('button.copy').textContent !== 'Copy'")
    assert window.complaints() == []


def test_everybody_can_read_the_help(window: Browser, axe: str) -> None:
    folder = write_html({name: text for name, text in read_pages().items() if name in ("serving", "from-kedro-mlflow")})
    for written in sorted(folder.glob("*.html")):
        window.go(written.as_uri())
        assert find_violations(window, axe) == {}
    shutil.rmtree(folder)


def make_sizes() -> ImageSizes:
    """Of every kind, from large to nothing."""
    kinds: tuple[Kind, ...] = ("python", "conda", "base", "model", "code", "other")
    packages = tuple(
        PackageSize(name=f"{kind}-{number}", kind=kind, version="1.0", size=10**7 // number**3, files=number)
        for number in range(1, 9)
        for kind in kinds
    )
    layers = [packages[place::3] for place in range(3)]
    return ImageSizes(
        layers=tuple(
            LayerSize(digest=f"sha256:{number:064}", name=f"layer-{number}", packed=10**6, packages=each)
            for number, each in enumerate(layers)
        )
    )


def test_the_page_of_an_audit_is_filtered_in_a_browser(window: Browser, axe: str, tmp_path: Path) -> None:
    """And the browser has nothing to complain of: no script of another, nothing to load."""
    names: list[tuple[str, Severity, str]] = [
        ("jinja2", "high", "vulnerabilities"),
        ("six", "medium", "drift"),
        ("numpy", "critical", "lock"),
        ("idna", "low", "lock"),
    ]
    found = [
        Finding(id=f"F-{name}", check=check, severity=severity, where=f"pip:{name}", evidence="<b>e", remedy="r")
        for name, severity, check in names
    ]
    subject = Subject(reference="models:/<i>m</i>/1", kind="model")
    result = CheckResult(check="lock", findings=tuple(found))
    report = make_report(subject, [result], Policy(), today=date(2026, 11, 28), fail_on="low")
    report = replace(report, measured=make_sizes)
    (tmp_path / "audit.html").write_text(page([(report, json.loads(make_sbom(subject, report)))], "findings"))
    window.go((tmp_path / "audit.html").as_uri())

    def shown() -> list[str]:
        script = "return [...document.querySelectorAll('tr.finding')].filter(r => r.offsetHeight).map(r => r.innerText)"
        rows = window.run(script)
        return [name for name, *_ in names if any(name in row for row in rows)]

    assert find_violations(window, axe) == {}
    # What to do is the last column: on a phone the rows stand below each other, and nothing is out of sight.
    window.look_as(dark=False, width=390)
    tables = "[...document.querySelectorAll('.scroll')].filter(each => !each.querySelector('svg'))"
    cut = f"return {tables}.filter(each => each.scrollWidth > each.clientWidth).map(each => each.ariaLabel)"
    assert window.run(cut) == []
    assert shown() == ["jinja2", "six", "numpy", "idna"]
    window.click("input[value=critical]")
    assert shown() == ["jinja2", "six", "idna"]
    window.click("input[value=drift]")
    assert shown() == ["six"]
    window.click("input[value=drift]")
    window.type("#words", "JINJA")
    assert shown() == ["jinja2"]
    assert window.complaints() == []

"""Options that do not go together are refused in words, with exit code 2, before anybody is asked for anything."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

from kbuild.cli.app import cli

ROOT = Path(__file__).parents[2] / "kbuild"
REFUSED: list[tuple[str, str]] = [
    ("image m --all-registered", "give one of MODEL, --all-registered and --from-file"),
    ("image m --from-file f", "give one of MODEL, --all-registered and --from-file"),
    ("image --all-registered --from-file f", "give one of MODEL, --all-registered and --from-file"),
    ("image m n", "image takes one MODEL: several are lines of --from-file FILE (- is stdin)"),
    ("image m --wait", "--wait and --priority are of --queue"),
    ("image m --priority 0", "--wait and --priority are of --queue"),
    ("image m --queue q --push x:1 --jobs 2", "--jobs is of kbuild worker"),
    ("image --all-registered --queue q --push x:1 --shard 1/2", "--shard of machines without a queue"),
    ("image m --queue q", "--queue needs --push"),
    ("image m --queue q --push x:1 --report r", "--report tells what became of them: add --wait"),
    ("image m --jobs 2", "--jobs, --report, --shard and several --builder are of many models"),
    ("image m --report r", "--jobs, --report, --shard and several --builder are of many models"),
    ("image m --shard 1/2", "--jobs, --report, --shard and several --builder are of many models"),
    ("image m --builder a --builder b", "--jobs, --report, --shard and several --builder are of many models"),
    ("image --best f1", "--best takes one of a run's child runs"),
    ("image --from-file f --output o", "--output is of one model"),
    ("image --from-file f --tag x:1", "--tag x:1 would be the name of 2 images"),
    ("image --from-file f --push x:1", "--push x:1 would be the name of 2 images"),
    ("image m --as model --jobs 2", "--jobs is of images that serve"),
    ("image m --as model --slim", "--slim is of images that serve"),
    ("image m --as modelpack --load", "--load is of images; --as modelpack is none"),
    ("image m --as modelpack --base b", "--base is of images; --as modelpack is none"),
    ("image m --as modelpack --platform linux/amd64", "--platform is of images; --as modelpack is none"),
    ("score m i o --spark local -j 2", "--workers is of this machine; of a cluster it is --spark-conf"),
    ("verify i --exact --rtol 1", "--exact allows no difference"),
    ("verify i --exact --atol 1", "--exact allows no difference"),
    ("verify i --rtol nan", "--rtol and --atol are numbers"),
    ("verify i --atol inf", "--rtol and --atol are numbers"),
    ("verify i --model .", "--model and --lockfile are for --rebuild"),
    ("verify i --report r", "--reuse-downloads and --report are for --rebuild"),
    ("verify i --reuse-downloads", "--reuse-downloads and --report are for --rebuild"),
    ("verify i --rebuild --timeout 7", "--rebuild starts nothing: leave out --timeout"),
    ("verify i --rebuild --exact", "--rebuild starts nothing: leave out --timeout"),
    ("verify i --rebuild --rtol 0", "--rebuild starts nothing: leave out --timeout"),
    ("verify i --rebuild --atol 1", "--rebuild starts nothing: leave out --timeout"),
    ("verify i --lockfile f", "--model and --lockfile are for --rebuild"),
    ("worker --queue q --no-audit --fail-on low", "--fail-on is of the audit"),
    ("trigger --flush --verify", "--flush, --verify and --schema exclude each other"),
    ("trigger --flush --schema", "--flush, --verify and --schema exclude each other"),
    ("trigger --verify --schema", "--flush, --verify and --schema exclude each other"),
    ("trigger --header a:b", "--header, --secret-env and --tolerance go with --verify"),
    ("trigger --flush --header a:b", "--header, --secret-env and --tolerance go with --verify"),
    ("trigger --secret-env S", "--header, --secret-env and --tolerance go with --verify"),
    ("trigger --tolerance 5", "--header, --secret-env and --tolerance go with --verify"),
    ("watch --queue q", "--queue needs --push"),
    ("watch --secret-env S", "--secret-env is of the webhooks that --listen takes"),
    ("watch --once --listen :1 --push x:1", "--once ends, and --listen goes on"),
    ("queue", "one of list, show, retry, cancel, prune, or --serve"),
    ("queue --listen :1 list", "--listen is where --serve serves"),
    ("queue --serve list", "--serve takes no command"),
    ("queue retry", "give JOBS, or --failed"),
    ("queue retry 1 --failed", "give JOBS, or --failed"),
    ("queue cancel", "give JOBS, or --waiting"),
    ("queue cancel 1 --waiting", "give JOBS, or --waiting"),
    ("deploy i --to kubernetes -o o --hostname h", "--hostname is for a --gateway"),
    ("audit m --all-registered", "give a REFERENCE or --all-registered"),
    ("audit --all-registered --image i", "--image and --lockfile are of one model"),
    ("audit --all-registered --lockfile f", "--image and --lockfile are of one model"),
    ("audit --all-registered --affected-by x --image i", "--image and --lockfile are of one model"),
    ("audit --all-registered --format openvex", "--format openvex is of one model"),
    ("audit --all-registered --reports r", "--reports is of one model"),
    ("audit m --affected-by x", "--affected-by goes with --all-registered"),
    ("audit --all-registered --affected-by x --format html", "--affected-by has the formats table and json"),
    ("iamge m", "No such command 'iamge'. Did you mean image?"),
    ("serve m", "No such command 'serve'. Did you mean run?"),
    ("ls", "No such command 'ls'. Did you mean list?"),
    ("cache ls", "No such command 'ls'. There are info, prune, verify."),
    ("audit m --html", "No such option '--html'. Did you mean '--format html'?"),
    ("image m --engine natve", "is not one of 'auto', 'native', 'buildkit'. Did you mean 'native'?"),
    ("deploy i --to kubernets -o o", "Did you mean 'kubernetes'?"),
    ("image m --engine x", "is not one of 'auto', 'native', 'buildkit'."),
    ("queue list --status wating", "'cancelled'. Did you mean 'waiting'?"),
    ("verify i --rtol abc", "'abc' is not a number."),
    ("verify i --rtol -1", "-1.0 is not in the range x>=0."),
    ("image m --jobs two", "'two' is not a whole number."),
    ("image m --priority two", "'two' is not a whole number."),
    ("queue show one", "'one' is not a whole number."),
    ("cache foo", "No such command 'foo'. There are info, prune, verify."),
    ("cache prne", "No such command 'prne'. Did you mean prune?"),
    ("queue foo", "No such command 'foo'. There are cancel, list, prune, retry, show."),
    ("help nope", "no page 'nope'; kbuild help lists them"),
    ("help doctr", "no page 'doctr'; did you mean doctor?"),
    ("help 999", "no page '999'; kbuild help lists them"),
    ("help tutoral", "no page 'tutoral'; did you mean tutorial?"),
    ("help exit-codes#xyz", "no heading 'xyz'; there are exit-codes, what-to-do, 3, 4, 5, 6, 7, 8 and 5"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked a server or read the cache would fail otherwise."""

    def refuse(*given: object, **more: object) -> None:
        raise AssertionError("asked before the options were looked at")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("KBUILD_QUEUE", raising=False)
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *_, **__: None)
    monkeypatch.setattr("requests.Session.send", refuse)
    (tmp_path / "f").write_text("models:/a/1\nmodels:/b/1\n")


@pytest.mark.parametrize(("typed", "said"), REFUSED, ids=[typed for typed, _ in REFUSED])
def test_what_does_not_go_together_is_refused(here: None, typed: str, said: str) -> None:
    done = CliRunner().invoke(cli, typed.split())
    assert (done.exit_code, done.stdout) == (2, ""), done.exception
    assert said in " ".join(done.stderr.split())


def test_what_may_have_been_meant_is_said_once(here: None) -> None:
    done = CliRunner().invoke(cli, ["queue", "list", "--status", "wating"])
    assert done.stderr.count("Did you mean") == 1


def test_every_refusal_is_in_the_table() -> None:
    """A new one needs a row."""
    said = " ".join(text for _, text in REFUSED)
    for path in (ROOT / "cli").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "click.UsageError":
                words = [str(each.value) for each in ast.walk(call) if isinstance(each, ast.Constant)]
                assert not words or any(each[:12] in said for each in words if len(each) > 5), f"{path.name}: {words}"


@pytest.mark.parametrize(
    ("topic", "begins"), [("image", "Usage: kbuild image [OPTIONS] [MODEL]\n"), ("52", "### 52\n"), ("audit", "# ")]
)
def test_help_of_a_command_and_of_an_exit_code_is_found(topic: str, begins: str) -> None:
    done = CliRunner().invoke(cli, ["help", topic])
    assert (done.exit_code, done.stdout[: len(begins)]) == (0, begins)

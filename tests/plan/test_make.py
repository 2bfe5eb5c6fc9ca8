from dataclasses import replace
from typing import Any

import pytest

from kbuild._version import __version__
from kbuild.digest import digest_bytes
from kbuild.environment.lockfile import Lockfile
from kbuild.errors import LabelError, PlatformError
from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BASE_CONTEXT, BuildPlan
from kbuild.plan.left_out import LeftOut
from kbuild.plan.make import Ingredients, make_plan, rfc3339
from kbuild.plan.render import Template
from kbuild.plan.split import WheelFacts, split_packages
from kbuild.platform import Platform

AMD64 = Platform("linux", "amd64")
FACTS = {
    "numpy": WheelFacts(size=50_000_000, paths=frozenset({"site/numpy/__init__.py"})),
    "mlflow": WheelFacts(size=1, paths=frozenset({"site/mlflow/__init__.py"})),
}


def make(bundle: ModelBundle, lockfile: Lockfile, base: ResolvedBase, **changes: Any) -> BuildPlan:
    ingredients = Ingredients(
        bundle=bundle,
        lockfile=lockfile,
        base=base,
        platform=changes.pop("platform", AMD64),
        runtime=changes.pop("runtime", digest_bytes(b"runtime")),
        recipe=changes.pop("recipe", "1"),
    )
    whole = split_packages({p: FACTS[p.name] for p in lockfile.packages if p.manager == "pip"})
    return make_plan(ingredients, changes.pop("groups", whole), changes.pop("template", Template()), **changes)


def names(plan: BuildPlan) -> list[str]:
    return [layer.name for layer in plan.layers]


def test_layers_go_from_what_changes_least_to_what_changes_most(bundle, lockfile, base) -> None:
    plan = make(bundle, lockfile, base)
    assert names(plan) == ["base", "interpreter", "package-numpy", "dependencies", "runtime", "project", "model"]


def test_a_registry_base_is_no_layer_of_ours(bundle, lockfile, base) -> None:
    registry = replace(base, kind="registry", reference="docker.io/library/debian@sha256:0")
    plan = make(bundle, lockfile, registry)
    assert plan.from_line == "docker.io/library/debian@sha256:0"
    assert names(plan)[0] == "interpreter"
    assert make(bundle, lockfile, replace(base, kind="layout")).from_line == BASE_CONTEXT


def test_layers_that_would_be_empty_are_left_out(bundle, lockfile, base) -> None:
    no_code = replace(bundle, files=tuple(f for f in bundle.files if not f.path.startswith("code/")))
    no_pip = replace(lockfile, packages=lockfile.packages[:1])
    assert names(make(no_code, no_pip, base)) == ["base", "interpreter", "runtime", "model"]


def changed(plan: BuildPlan, other: BuildPlan) -> list[str]:
    return [one.name for one, two in zip(plan.layers, other.layers, strict=True) if one != two]


def test_each_change_changes_its_own_layer_alone(bundle, lockfile, base) -> None:
    plan = make(bundle, lockfile, base)
    other = digest_bytes(b"other")
    files = {
        "project": replace(bundle.files[2], digest=other),
        "model": replace(bundle.files[0], digest=other),
    }
    for name, file in files.items():
        new = tuple(file if old.path == file.path else old for old in bundle.files)
        after = make(replace(bundle, files=new), lockfile, base)
        assert changed(plan, after) == [name]
        assert plan.digest != after.digest
    interpreter = replace(lockfile.packages[0], sha256=other.hex)
    assert changed(plan, make(bundle, replace(lockfile, packages=(interpreter, *lockfile.packages[1:])), base)) == [
        "interpreter"
    ]
    wheel = replace(lockfile.packages[1], sha256=other.hex)
    packages = (lockfile.packages[0], wheel, lockfile.packages[2])
    assert changed(plan, make(bundle, replace(lockfile, packages=packages), base)) == ["package-numpy"]
    assert changed(plan, make(bundle, lockfile, base, runtime=other)) == ["runtime"]


def test_the_order_of_files_and_packages_does_not_matter(bundle, lockfile, base) -> None:
    shuffled = replace(lockfile, packages=lockfile.packages[::-1])
    assert make(bundle, shuffled, base).layers == make(bundle, lockfile, base).layers


def test_labels_tell_where_the_image_comes_from(bundle, lockfile, base) -> None:
    labels = dict(make(bundle, lockfile, base, labels={"team": "a"}).config.labels)
    assert labels["io.kbuild.model.uri"] == "models:/m-1"
    assert labels["io.kbuild.run.id"] == "b" * 32
    assert labels["io.kbuild.model.digest"] == str(bundle.digest)
    assert labels["io.kbuild.lock.digest"] == str(lockfile.packages_digest(AMD64)) != str(lockfile.digest)
    assert labels["org.opencontainers.image.revision"] == "c" * 40
    assert labels["org.opencontainers.image.created"] == "2026-11-22T21:45:19Z"
    assert labels["team"] == "a"


def test_where_packages_come_from_changes_no_plan(bundle, lockfile, base) -> None:
    moved = [replace(each, url=f"https://mirror.example/{each.filename}") for each in lockfile.packages]
    mirrored = replace(lockfile, content=b"other", packages=tuple(moved), channels=("mirror",))
    assert make(bundle, mirrored, base).to_json() == make(bundle, lockfile, base).to_json()
    newer = replace(mirrored, packages=(*moved[:2], replace(moved[2], version="1.1")))
    assert make(bundle, newer, base).digest != make(bundle, lockfile, base).digest


def test_tools_read_what_they_read_of_any_image(bundle, lockfile, base) -> None:
    record = {"git_commit": "c" * 40, "git_dirty": True, "git_source": "https://git.example/shop", "licence": "MIT"}
    trained = replace(bundle, facts=replace(bundle.facts, record=record))
    registry = replace(
        base,
        kind="registry",
        name="docker.io/library/debian:12@sha256:0",
        reference="docker.io/library/debian@sha256:0",
    )
    plan = make(trained, lockfile, registry)
    prefix = "org.opencontainers.image."
    for stated in (dict(plan.config.labels), dict(plan.annotations)):
        assert {key.removeprefix(prefix): text for key, text in stated.items() if key.startswith(prefix)} == {
            "title": "churn",
            "version": "m-1",
            "revision": "c" * 40,
            "source": "https://git.example/shop",
            "licenses": "MIT",
            "created": "2026-11-22T21:45:19Z",
            "base.name": "docker.io/library/debian:12",
            "base.digest": str(base.digest),
        }
        assert stated["io.kbuild.version"] == __version__
        assert stated["io.kbuild.git.dirty"] == "true"


def test_a_base_of_packages_is_not_named_as_an_image_of_a_registry(bundle, lockfile, base) -> None:
    labels = dict(make(bundle, lockfile, base).config.labels)
    assert labels["io.kbuild.base.name"] == "debian:bookworm"
    assert not [key for key in labels if key.startswith("org.opencontainers.image.base.")]
    layout = dict(make(bundle, lockfile, replace(base, kind="layout", name="oci:x")).config.labels)
    assert layout["org.opencontainers.image.base.digest"] == str(base.digest)
    assert "org.opencontainers.image.base.name" not in layout


def test_what_is_unknown_has_no_label(bundle, lockfile, base) -> None:
    facts = replace(bundle.facts, uri=None, run_id=None, record={}, signature=None)
    labels = dict(make(replace(bundle, facts=facts), lockfile, base).config.labels)
    assert not {"io.kbuild.model.uri", "io.kbuild.run.id", "io.kbuild.signature"} & labels.keys()
    assert "None" not in labels.values()


def test_the_image_is_not_run_as_root_and_needs_no_shell(bundle, lockfile, base) -> None:
    config = make(bundle, lockfile, base).config
    assert config.user == "65532:65532"
    assert config.entrypoint[0].startswith("/") and config.healthcheck[0].startswith("/")


def test_a_label_with_a_newline_is_refused(bundle, lockfile, base) -> None:
    with pytest.raises(LabelError, match="label note"):
        make(bundle, lockfile, base, labels={"note": "a\nb"})


@pytest.mark.parametrize(
    "key", ["io.kbuild.base.name", "org.opencontainers.image.base.digest", "org.opencontainers.image.created"]
)
def test_what_the_image_was_made_from_is_not_for_others_to_say(bundle, lockfile, base, key: str) -> None:
    with pytest.raises(LabelError, match=f"label {key} is kbuild's own"):
        make(bundle, lockfile, base, labels={key: "x"})


def test_a_platform_that_is_not_locked_is_refused(bundle, lockfile, base) -> None:
    with pytest.raises(PlatformError, match="linux/amd64, not for linux/arm64"):
        make(bundle, lockfile, base, platform=Platform("linux", "arm64"))


def test_time_is_written_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"


def test_a_file_added_is_another_plan(bundle, lockfile, base) -> None:
    more = replace(bundle, files=(*bundle.files, ModelFile(path="z", size=0, digest=digest_bytes(b""))))
    assert make(more, lockfile, base).digest != make(bundle, lockfile, base).digest


def test_a_layer_names_the_layers_whose_files_it_may_meet(bundle, lockfile, base) -> None:
    over = {layer.name: layer.over for layer in make(bundle, lockfile, base).layers}
    assert (
        over["package-numpy"] == over["dependencies"] == over["runtime"] == over["project"] == ("base", "interpreter")
    )
    assert over["interpreter"] == over["model"] == ("base",)
    assert {layer.over for layer in make(bundle, lockfile, replace(base, kind="layout")).layers} == {
        (),
        ("interpreter",),
    }


def test_a_slim_plan_says_what_it_is_without(bundle, lockfile, base) -> None:
    slim = make(bundle, lockfile, base, left_out=LeftOut(packages=("numpy", "b"), files={"*": ("tests/",)}))
    labels = dict(slim.config.labels)
    assert labels["io.kbuild.slim.left-out"] == "b numpy"
    assert labels["io.kbuild.slim.left-out-files"] == '{"*":["tests/"]}'
    assert dict(slim.config.env)["KBUILD_SLIM"] == "1"
    assert slim.digest != make(bundle, lockfile, base).digest
    assert not [key for key in dict(make(bundle, lockfile, base).config.labels) if key.startswith("io.kbuild.slim")]


def test_a_layer_follows_from_its_packages_and_what_they_are_without(bundle, lockfile, base) -> None:
    whole = split_packages({p: FACTS[p.name] for p in lockfile.packages if p.manager == "pip"})

    def contents(**left_out: tuple[str, ...]) -> dict[str, str]:
        groups = [
            replace(group, left_out={p.name: left_out[p.name] for p in group.packages if p.name in left_out})
            for group in whole
        ]
        return {layer.name: str(layer.content) for layer in make(bundle, lockfile, base, groups=groups).layers}

    assert contents() == {layer.name: str(layer.content) for layer in make(bundle, lockfile, base).layers}
    numpy = contents(numpy=("tests/",))
    assert {name for name, content in contents().items() if content != numpy[name]} == {"package-numpy"}
    # What another package is without changes nothing, what it is without itself does.
    assert contents(numpy=("tests/",), mlflow=("*.h",))["package-numpy"] == numpy["package-numpy"]
    assert contents(numpy=("*.h",))["package-numpy"] != numpy["package-numpy"]

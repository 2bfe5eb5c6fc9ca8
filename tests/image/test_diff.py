from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.compare.diff import diff_images
from kbuild.image.engine import BuiltImage, make_engine
from kbuild.image.oci.layout import blob_path
from kbuild.image.oci.media import Compression
from kbuild.image.store.pack import pack
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext
from kbuild.plan.left_out import LeftOut
from kbuild.process import run
from kbuild.progress import Silent
from kbuild.verify.rebuild import carry_downloads, read_claims

BASE = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b""))
SITE = "opt/env/lib/python3.11/site-packages"
FILES = {
    "base/var/lib/dpkg/status.d/libc6": "Package: libc6\nVersion: 2.36-9\n",
    "lib/opt/env/conda-meta/python-3.11.7-0_cpython.json": "{}",
    f"lib/{SITE}/numpy-1.0.dist-info/METADATA": "Name: numpy\n",
    "model/m/weights": "one",
    "model/m/same": "same",
}
LABELS = 'LABEL "io.kbuild.model.uri"="models:/m-1" "io.kbuild.base.name"="debian:bookworm" "team"="a"\n'


def build(
    folder: Path,
    files: dict[str, str],
    *,
    more: str = "",
    mode: int = 0o644,
    created: int = 0,
    compression: Compression = "zstd",
) -> BuiltImage:
    context = folder / "context"
    for name, text in files.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(text)
        (context / name).chmod(0o644)
    (context / "model/m/weights").chmod(mode)
    tops = sorted({name.split("/")[0] for name in files})
    dockerfile = "FROM scratch\n" + "".join(f"COPY {top}/ /\n" for top in tops) + LABELS + more
    (context / "Dockerfile").write_text(dockerfile)
    plan = replace(EMPTY, base=BASE.digest, created=created, dockerfile=dockerfile)
    output = make_engine("native", run).build(
        BuildContext(path=context, plan=plan), BASE, workdir=folder, progress=Silent()
    )
    return pack(output, plan, folder / "image", engine="native", progress=Silent(), compression=compression)


def lines(before: BuiltImage, after: BuiltImage, part: str) -> list[str]:
    return [change.to_text() for change in getattr(diff_images(before, after, Silent()), part)]


def test_one_digest_is_one_image(tmp_path: Path) -> None:
    diff = diff_images(build(tmp_path / "a", FILES), build(tmp_path / "b", FILES), Silent())
    assert diff.same
    assert diff.to_json()["files"] == []
    assert diff.to_text().startswith("the same image: sha256:")


def test_each_change_is_named_by_what_changed(tmp_path: Path) -> None:
    before = build(tmp_path / "a", FILES)
    files = {**FILES, "model/m/weights": "other", "model/m/new": ""}
    del files["model/m/same"]
    after = build(tmp_path / "b", files, mode=0o755)
    found = lines(before, after, "files")
    assert [line.split()[:2] for line in found] == [["+", "/m/new:"], ["-", "/m/same:"], ["~", "/m/weights:"]]
    assert "mode 0644, size 3, content sha256:" in found[2] and "-> mode 0755, size 5" in found[2]
    assert len(lines(before, after, "layers")) == 1
    assert not diff_images(before, after, Silent()).packages
    json.dumps(diff_images(before, after, Silent()).to_json())


def test_what_matters_first_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    paths = ("model/opt/model/code/x/a.py", "model/opt/model/MLmodel", "kbuild/opt/kbuild/kbuild/b.py", "lib/opt/env/z")
    plain = {**FILES, **dict.fromkeys(paths, "one"), "model/opt/model/code/x/__pycache__/a.pyc": "one"}
    before = build(tmp_path / "a", plain)
    files = {name: "other" if text == "one" else text for name, text in plain.items()}
    after = build(tmp_path / "b", files, more='LABEL "why"="b"\n')
    diff = diff_images(before, after, Silent())
    first, *rest = diff.to_text().splitlines()
    assert first == f"sha256:{before.digest.hex[:12]} -> sha256:{after.digest.hex[:12]}"
    assert [line.split(":")[0] for line in rest] == [
        "code",
        "  ~ x/a.py",
        "model",
        "  ~ MLmodel",
        "config",
        "  + label why",
        "kbuild's own part of the image",
        "3 layers and 2 more files (kbuild diff --all)",
    ]
    whole = diff.to_text(everything=True)
    assert str(before.digest) in whole and "a.pyc" in whole and "/opt/env/z" in whole
    config = [change for change in diff.config if change.name != "history"]
    assert len(whole.splitlines()) == 1 + sum(
        len(part) + bool(part) for part in (diff.packages, config, diff.layers, diff.files)
    )
    assert "~ /opt/model/MLmodel: size 3 -> 5, content sha256:" in whole and " -> content " not in whole


def told(folder: Path, before: str, after: str, *, everything: bool = False) -> list[str]:
    one, other = build(folder / "a", FILES, more=before), build(folder / "b", FILES, more=after, created=7)
    text = diff_images(one, other, Silent()).to_text(everything=everything)
    return [line.strip() for line in text.partition("config\n")[2].splitlines() if line.startswith("  ~ ")]


def test_a_fact_that_an_image_states_several_times_is_told_once(tmp_path: Path) -> None:
    def more(model: str, time: str) -> str:
        return (
            f'LABEL "io.kbuild.model.uri"="models:/m-{model}" "org.opencontainers.image.version"="m-{model}"'
            f' "org.opencontainers.image.created"="{time}" "team"="{model}"\n'
            f'ENV KBUILD_MODEL_URI="models:/m-{model}" TEAM="{model}" KBUILD_OTHER="{model}"\n'
        )

    lines = told(tmp_path, more("5", "1970-01-01T00:00:00Z"), more("6", "1970-01-01T00:00:07Z"))
    assert lines == [
        "~ label io.kbuild.model.uri: models:/m-5 -> models:/m-6",
        "~ label team: 5 -> 6",
        "~ created: 1970-01-01T00:00:00Z -> 1970-01-01T00:00:07Z",
        "~ variable TEAM: 5 -> 6",
        "~ variable KBUILD_OTHER: 5 -> 6",
    ]


def test_the_same_names_with_other_values_are_told(tmp_path: Path) -> None:
    """An image that somebody else made may say one thing in its label and another in its variable."""
    before = 'LABEL "io.kbuild.model.uri"="a" "org.opencontainers.image.version"="1"\nENV KBUILD_MODEL_URI=a\n'
    after = 'LABEL "io.kbuild.model.uri"="b" "org.opencontainers.image.version"="2"\nENV KBUILD_MODEL_URI=c\n'
    lines = told(tmp_path, before, after)
    assert [line.split(":")[0] for line in lines] == [
        "~ label io.kbuild.model.uri",
        "~ created",
        "~ variable KBUILD_MODEL_URI",
        "~ label org.opencontainers.image.version",
    ]


def test_a_signature_is_told_by_its_columns_and_a_command_as_it_is_typed(tmp_path: Path) -> None:
    def more(signature: object, command: str) -> str:
        text = json.dumps(json.dumps(signature))
        return f'LABEL "io.kbuild.signature"={text}\nENTRYPOINT ["python", "{command}"]\nEXPOSE 80\n'

    def column(name: str, kind: str, **more: object) -> dict[str, object]:
        return {"name": name, "type": kind, **more}

    before = {"inputs": [column("age", "long"), column("sex", "string")], "outputs": [column("y", "double")]}
    after = {"inputs": [column("age", "double"), column("sex", "string", required=False)], "outputs": None}
    one = build(tmp_path / "a", FILES, more=more(before, "a b"))
    other = build(tmp_path / "b", FILES, more=more(after, "c").replace("80", "81"))
    for everything in (True, False):
        text = diff_images(one, other, Silent()).to_text(everything=everything)
        assert [line.strip() for line in text.splitlines() if line.startswith("  ")] == [
            "~ signature inputs.age: long -> double",
            "~ signature inputs.sex: string -> string, may be left out",
            "- signature outputs.y: double",
            "~ Entrypoint: python 'a b' -> python c",
            "- ExposedPorts.80/tcp: {}",
            "+ ExposedPorts.81/tcp: {}",
        ]


def test_packages_of_all_three_kinds(tmp_path: Path) -> None:
    before = build(tmp_path / "a", FILES)
    files = {name.replace("numpy-1.0", "numpy-1.1").replace("3.11.7-0", "3.11.8-1"): t for name, t in FILES.items()}
    files["base/var/lib/dpkg/status.d/libc6"] = "Package: libc6\nVersion: 2.36-10\n"
    after = build(tmp_path / "b", files)
    assert lines(before, after, "packages") == [
        "~ debian libc6: 2.36-9 -> 2.36-10",
        "~ conda python: 3.11.7-0_cpython -> 3.11.8-1_cpython",
        "~ pip numpy: 1.0 -> 1.1",
    ]


def test_config_by_key(tmp_path: Path) -> None:
    before = build(tmp_path / "a", FILES, more="ENV A=1 B=2\n")
    after = build(tmp_path / "b", FILES, more="ENV A=1 B=3\nUSER 5\n", created=7)
    found = lines(before, after, "config")
    assert "~ config.Env.B: 2 -> 3" in found and "+ config.User: 5" in found
    assert any(line.startswith("~ created: 1970-01-01T00:00:00Z -> ") for line in found)
    assert not any("Env.A" in line for line in found)


def test_a_damaged_layer_is_told(tmp_path: Path) -> None:
    before = build(tmp_path / "a", FILES)
    after = build(tmp_path / "b", {**FILES, "model/m/weights": "other"})
    blob_path(after.layout, after.layers[-1].digest).write_bytes(b"none")
    with pytest.raises(InvalidImage, match="cannot be read"):
        diff_images(before, after, Silent())


def test_what_an_image_claims(tmp_path: Path) -> None:
    more = 'LABEL "io.kbuild.lock.digest"="l" "io.kbuild.model.digest"="d"\n'
    image = build(tmp_path / "a", FILES, more=more)
    claims = read_claims(image)
    assert (claims.model, claims.base, claims.labels) == ("models:/m-1", "debian:bookworm", (("team", "a"),))
    assert claims.compression == "zstd"
    packed = build(tmp_path / "gzip", FILES, more=more, compression="gzip")
    assert read_claims(packed).compression == "gzip"
    assert packed.config_digest == image.config_digest
    assert not claims.left_out
    slim = more.replace("\n", ' "io.kbuild.slim.left-out"="flask gunicorn"\n')
    assert read_claims(build(tmp_path / "c", FILES, more=slim)).left_out == LeftOut(packages=("flask", "gunicorn"))
    files = slim.replace("\n", ' "io.kbuild.slim.left-out-files"="{\\"a\\":[\\"tests/\\"]}"\n')
    assert read_claims(build(tmp_path / "d", FILES, more=files)).left_out.files == {"a": ("tests/",)}
    with pytest.raises(InvalidImage, match=r"its label io\.kbuild\.slim\.left-out-files cannot be read"):
        read_claims(build(tmp_path / "e", FILES, more=files.replace("]}", "}")))
    with pytest.raises(InvalidImage, match=r"no label io\.kbuild\.lock\.digest"):
        read_claims(build(tmp_path / "b", FILES))


def test_only_downloads_that_hold_are_carried(tmp_path: Path) -> None:
    good, bad = digest_bytes(b"good").hex, digest_bytes(b"bad").hex
    for name in (f"downloads/{good}/a.whl", f"downloads/{bad}/b.whl", f"debs/{good}.deb", f"debs/{bad}.deb"):
        (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / name).write_bytes(b"good")
    assert carry_downloads(tmp_path / "cache", tmp_path / "clean") == 2
    kept = sorted(path.name for path in (tmp_path / "clean").rglob("*") if path.is_file())
    assert kept == sorted(["a.whl", f"{good}.deb"])

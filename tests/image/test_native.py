from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import digest_bytes
from kbuild.errors import BaseImageError, BuildFailed, InvalidImage, KbuildError, OutputError, UnsupportedInstruction
from kbuild.image.engine import BuiltImage, make_engine
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import blob_path, layout_tar, read_json_blob
from kbuild.image.oci.validate import validate_layout
from kbuild.image.store import pack as packing
from kbuild.image.store.pack import image_in, pack
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext, ImageConfig
from kbuild.process import run
from kbuild.progress import Silent

SCRATCH = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b""))
CONFIG = ImageConfig(user="", entrypoint=(), env=(), exposed_port=1, healthcheck=(), stop_signal="", labels=())


def make_context(folder: Path, dockerfile: str, files: dict[str, str], *, from_line: str = "scratch") -> BuildContext:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            path.symlink_to(content.removeprefix("-> "))
        else:
            path.write_text(content)
            path.chmod(0o644)
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            Path(parent, name).chmod(0o755)
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    plan = replace(EMPTY, base=SCRATCH.digest, from_line=from_line, config=CONFIG, dockerfile=dockerfile)
    return BuildContext(path=folder, plan=plan)


def build(context: BuildContext, destination: Path, base: ResolvedBase = SCRATCH) -> BuiltImage:
    output = make_engine("native", run).build(context, base, workdir=destination.parent, progress=Silent())
    image = pack(output, context.plan, destination, engine="native", progress=Silent())
    validate_layout(image.layout)
    return image


def build_text(tmp_path: Path, dockerfile: str, files: dict[str, str] | None = None) -> BuiltImage:
    return build(make_context(tmp_path / "context", dockerfile, files or {}), tmp_path / "image")


def names(image: BuiltImage, layer: int) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(content(image, layer))) as archive:
        return archive.getnames()


def content(image: BuiltImage, layer: int) -> bytes:
    return b"".join(read_layer(blob_path(image.layout, image.layers[layer].digest), "zstd"))


def config(image: BuiltImage) -> dict[str, object]:
    found: dict[str, object] = read_json_blob(image.layout, image.config_digest)["config"]
    return found


FILES = {"a/x": "x", "a/d/same": "same", "b/d/same": "same", "b/d/new": "new", "b/e/f": "-> ../x"}
TEXT = "FROM scratch\nCOPY a/ /\nCOPY b/ /\n"


def test_a_layer_has_what_changed_and_the_folders_above_it(tmp_path: Path) -> None:
    image = build_text(tmp_path, TEXT, FILES)
    assert names(image, 0) == ["d", "d/same", "x"]
    assert names(image, 1) == ["d", "d/new", "e", "e/f"]
    assert [layer.created_by for layer in image.layers] == ["COPY a/ /", "COPY b/ /"]


def test_the_digest_does_not_know_the_folder_the_times_or_the_order(tmp_path: Path) -> None:
    one = build(make_context(tmp_path / "one", TEXT, FILES), tmp_path / "image1")
    other = make_context(tmp_path / "somewhere/else", TEXT, dict(reversed(FILES.items())))
    os.utime(other.path / "a/x", (1, 1))
    assert build(other, tmp_path / "image2").digest == one.digest


def test_a_layer_of_several_folders_is_as_if_they_were_one(tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY app/ /\nCOPY app/ns /other/\nCOPY app/ns/b.py /alone.py\n"
    whole = build_text(tmp_path, text, {"app/ns/a.py": "a", "app/ns/b.py": "b", "app/z/z.py": "z", "app/b-": "-"})
    parts = make_context(
        tmp_path / "parts",
        text,
        {"one/ns/b.py": "b", "one/b-": "-", "two/ns/a.py": "a", "two/z/z.py": "z", "two/b-": "?"},
    )
    parts = replace(parts, trees={"app": (tmp_path / "parts/one", tmp_path / "parts/two")})
    assert [layer.diff_id for layer in build(parts, tmp_path / "other").layers] == [
        layer.diff_id for layer in whole.layers
    ]
    gone = make_context(tmp_path / "gone", "FROM scratch\nCOPY app/no /\n", {})
    with pytest.raises(BuildFailed, match="app/no is not in the build context"):
        build(replace(gone, trees=parts.trees), tmp_path / "none")


def test_config_instructions(tmp_path: Path) -> None:
    image = build_text(
        tmp_path,
        "FROM scratch\n"
        "COPY a/ /\n"
        'ENV A="b c" PATH="/opt:${PATH}"\n'
        'LABEL "k"="v w"\n'
        "EXPOSE 8080 53/udp\n"
        "WORKDIR /d\n"
        "WORKDIR sub\n"
        'HEALTHCHECK --interval=1m30s --retries=3 CMD ["/bin/x", "y"]\n'
        "STOPSIGNAL SIGINT\nUSER 5:6\n"
        'CMD ["c"]\nENTRYPOINT ["e", "$A"]\n',
        {"a/d/f": ""},
    )
    assert config(image) == {
        "User": "5:6",
        "ExposedPorts": {"53/udp": {}, "8080/tcp": {}},
        "Env": ["PATH=/opt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b c"],
        "Entrypoint": ["e", "$A"],
        "Cmd": ["c"],
        "WorkingDir": "/d/sub",
        "Labels": {"k": "v w"},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "/bin/x", "y"], "Interval": 90_000_000_000, "Retries": 3},
    }
    assert [layer.created_by for layer in image.layers] == ["COPY a/ /", "WORKDIR sub"]


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        ("RUN true", UnsupportedInstruction, "line 2: RUN"),
        ("ADD a/ /", UnsupportedInstruction, "ADD"),
        ("ARG X", UnsupportedInstruction, "ARG"),
        ("FROM scratch", UnsupportedInstruction, "one stage"),
        ("COPY --from=x a /", UnsupportedInstruction, "--from"),
        ("COPY a* /", UnsupportedInstruction, "wildcards"),
        ("COPY --chown=me a/ /", UnsupportedInstruction, "numbers"),
        ("COPY --chmod=u+x a/ /", UnsupportedInstruction, "octal"),
        ("COPY absent/ /", BuildFailed, "absent/ is not in the build context"),
        ("COPY ../../etc /", BuildFailed, "is not in the build context"),
        ("COPY a/", BuildFailed, "a source and a target"),
        ("EXPOSE 80-90", UnsupportedInstruction, "80-90"),
        ("HEALTHCHECK --interval=soon CMD x", BuildFailed, "soon"),
        ("ENV A", BuildFailed, "no value"),
    ],
)
def test_what_it_cannot_do_names_the_line(tmp_path: Path, line: str, error: type[KbuildError], words: str) -> None:
    with pytest.raises(error, match="Dockerfile line 2") as caught:
        build_text(tmp_path, f"FROM scratch\n{line}\n", {"a/x": "x"})
    assert words in caught.value.message
    assert not (tmp_path / "image").exists()


def test_other_bases_and_dockerignore_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedInstruction, match="only the plan's base"):
        build_text(tmp_path, "FROM debian\n")
    context = make_context(tmp_path / "ignoring", "FROM scratch\n", {".dockerignore": "a"})
    with pytest.raises(UnsupportedInstruction, match="dockerignore"):
        build(context, tmp_path / "image")


def test_a_base_layout_is_carried_over_and_its_folders_known(tmp_path: Path) -> None:
    below = build(
        make_context(tmp_path / "below", 'FROM scratch\nCOPY a/ /\nENV B=1\nCMD ["old"]\n', FILES), tmp_path / "l"
    )
    base = ResolvedBase(kind="layout", name="oci:l", digest=below.digest, path=below.layout)
    context = make_context(tmp_path / "c", 'FROM base\nCOPY b/ /\nENTRYPOINT ["new"]\n', FILES, from_line="base")
    image = build(context, tmp_path / "image", base)
    assert image.layers[0] == below.layers[0]
    # The folder d is as it was below; the file in it may have another time there, so it is a change.
    assert names(image, 1) == ["d", "d/new", "d/same", "e", "e/f"]
    assert config(image)["Env"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "B=1"]
    assert "Cmd" not in config(image)


def test_a_damaged_base_layer_is_told(tmp_path: Path) -> None:
    below = build(make_context(tmp_path / "below", "FROM scratch\nCOPY a/ /\n", FILES), tmp_path / "l")
    blob_path(below.layout, below.layers[0].digest).write_bytes(b"no layer")
    base = ResolvedBase(kind="layout", name="oci:l", digest=below.digest, path=below.layout)
    with pytest.raises(BaseImageError, match="cannot be read"):
        build(make_context(tmp_path / "c", "FROM base\n", {}, from_line="base"), tmp_path / "image", base)


def test_a_pulled_base_is_decompressed_once(tmp_path: Path) -> None:
    below = build(make_context(tmp_path / "below", "FROM scratch\nCOPY a/ /\n", FILES), tmp_path / "l")
    blob = blob_path(below.layout, below.layers[0].digest)
    base = ResolvedBase(kind="registry", name="r/b:1", reference="base", digest=below.digest, path=below.layout)
    context = make_context(tmp_path / "c", "FROM base\nCOPY b/ /\n", FILES, from_line="base")
    image = build(context, tmp_path / "image", base)
    (record,) = (below.layout / "members").iterdir()
    write_vouched(record, read_vouched(record).replace(b'"d", "5"', b'"d", "0"'))
    with pytest.raises(BuildFailed, match="a folder cannot replace a file"):  # so it was read
        build(context, tmp_path / "wrong", base)
    os.utime(blob, (1, 1))
    assert build(context, tmp_path / "again", base) == replace(image, layout=tmp_path / "again")
    blob.write_bytes(blob.read_bytes() + b"!")
    with pytest.raises(BaseImageError, match=r"does not have that digest|cannot be read"):
        build(context, tmp_path / "last", base)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [({"a/p": "x"}, {"b/p/q": "x"}), ({"a/p/q": "x"}, {"b/p": "x"}), ({"a/p": "-> q", "a/q/r": ""}, {"b/p/s": ""})],
)
def test_folders_and_files_do_not_replace_each_other(
    tmp_path: Path, lower: dict[str, str], upper: dict[str, str]
) -> None:
    with pytest.raises(BuildFailed, match="line 3: COPY: a f"):
        build_text(tmp_path, TEXT, lower | upper)


def test_the_layout_names_the_image_for_docker(tmp_path: Path) -> None:
    image = build_text(tmp_path, TEXT, FILES)
    data = b"".join(layout_tar(image.layout, reference=ImageReference.parse("demo:1")))
    assert data == b"".join(layout_tar(image.layout, reference=ImageReference.parse("demo:1")))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        index = json.load(archive.extractfile("index.json"))  # type: ignore[arg-type]
        (docker,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert {docker["Config"], *docker["Layers"]} < set(archive.getnames())
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "docker.io/library/demo:1"
    assert docker["RepoTags"] == ["demo:1"]


def test_an_older_layout_is_replaced_and_anything_else_stays(tmp_path: Path) -> None:
    image = build_text(tmp_path, TEXT, FILES)
    assert build(make_context(tmp_path / "again", TEXT, FILES), tmp_path / "image") == image
    assert image_in(tmp_path / "image", engine="native") == image
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    with pytest.raises(OutputError, match="is there already"):
        build(make_context(tmp_path / "third", TEXT, FILES), tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "context", "image", "mine", "third"]


def test_what_is_copied_over_a_file_brings_its_own_mode(tmp_path: Path) -> None:
    context = make_context(tmp_path / "context", "FROM scratch\nCOPY a/ /\nCOPY b/ /\n", {"a/run": "1", "b/run": "2"})
    (context.path / "a/run").chmod(0o600)
    (context.path / "b/run").chmod(0o755)
    image = build(context, tmp_path / "image")
    modes = []
    for layer in (0, 1):
        with tarfile.open(fileobj=io.BytesIO(content(image, layer))) as archive:
            modes.append(archive.getmember("run").mode)
    assert modes == [0o600, 0o755]


@pytest.mark.parametrize("lost", ["rootfs", "architecture"])
def test_what_is_no_image_by_the_specification_is_refused_when_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """config.md, "Properties": both are required. A fault of the packer's own parts, made here."""
    make_config = packing.make_config

    def lose(*args: object, **given: object) -> dict[str, object]:
        made = make_config(*args, **given)  # type: ignore[arg-type]
        del made[lost]
        return made

    monkeypatch.setattr(packing, "make_config", lose)
    with pytest.raises(InvalidImage, match=lost):
        build_text(tmp_path, "FROM scratch\nCOPY a/ /\n", {"a/run": "1"})
    assert not (tmp_path / "image").exists()


def test_a_layout_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, files = "FROM scratch\nCOPY a/ /\n", {"a/f": "1"}
    before = build_text(tmp_path, text, files)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Input/output error"):
        build(make_context(tmp_path / "other", text, {"a/f": "2"}), tmp_path / "image")
    validate_layout(before.layout)
    assert image_in(before.layout, engine="native").digest == before.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["context", "image", "other"]


def test_a_file_that_vanishes_leaves_nothing_half_written(tmp_path: Path) -> None:
    context = make_context(tmp_path / "context", TEXT, FILES)
    output = make_engine("native", run).build(context, SCRATCH, workdir=tmp_path, progress=Silent())
    (context.path / "b/d/new").unlink()
    with pytest.raises(OutputError, match="b/d/new"):
        pack(output, context.plan, tmp_path / "image", engine="native", progress=Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["context"]


def test_validation_names_every_failure_at_once(tmp_path: Path) -> None:
    image = build_text(tmp_path, TEXT, FILES)
    blob_path(image.layout, image.layers[0].digest).unlink()
    damaged = blob_path(image.layout, image.layers[1].digest)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(InvalidImage) as caught:
        validate_layout(image.layout)
    assert "layers[0]" in caught.value.message
    assert "is missing" in caught.value.message
    assert "layers[1]" in caught.value.message
    assert "does not have that digest" in caught.value.message

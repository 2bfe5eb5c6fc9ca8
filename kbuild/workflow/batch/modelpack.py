"""A model's files as a CNCF ModelPack artifact, for registries and servers that know models as such."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kbuild.cache.room import room_for
from kbuild.digest import Digest
from kbuild.errors import OutputError
from kbuild.files import native
from kbuild.image.deliver.naming import name_values
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media, modelpack
from kbuild.image.oci.compress import check_compressor, write_blob
from kbuild.image.oci.descriptor import Descriptor, Manifest
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import Compression
from kbuild.image.oci.tarball import DIRECTORY, FILE, Entry, tar_chunks
from kbuild.image.oci.validate import validate_layout
from kbuild.image.store.pack import PACKED_BY, output_error, packing, refuse_other, replacing
from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.context import stage_files
from kbuild.plan.make import check_labels, labels_for_tools, rfc3339
from kbuild.plan.model_only import EMPTY_BASE, model_labels
from kbuild.progress import how_many
from kbuild.workflow.build import fetch_pinned, working_folder
from kbuild.workflow.delivery import Delivery
from kbuild.workflow.stopping import stopping_at_signals
from kbuild.workflow.tools import Tools

_CODE = "code"  # where MLflow keeps code_paths
_ALONE = 50  # files of a folder; of more it is one layer, for each is a request to the registry
_TEXTS = frozenset({"", ".json", ".yaml", ".yml", ".toml", ".txt", ".cfg", ".ini"})
_READ_FIRST = frozenset({"README", "LICENSE", "LICENCE", "NOTICE"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPackRequest:
    """What is wanted. Layers are stored as they are by default, as the specification advises: weights hardly shrink."""

    model: str
    labels: tuple[tuple[str, str], ...] = ()
    compression: Compression = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPack:
    """``reference`` is ``name@sha256:…``; ``size`` in bytes; ``layout`` the OCI layout that was asked for, a folder or
    one tar, and ``pushed`` where in a registry it is; None where that was not asked for."""

    reference: str
    digest: Digest
    config_digest: Digest
    size: int
    model_digest: Digest
    layout: Path | None
    pushed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """``path`` is the file or folder that it holds."""

    kind: modelpack.Kind
    path: str
    files: tuple[ModelFile, ...]


def build_modelpack(request: ModelPackRequest, delivery: Delivery, tools: Tools, *, reuse: bool = True) -> ModelPack:
    """Write a model's files as a ModelPack artifact to a layout, a registry, or both.

    Its bytes depend on model, labels and compression alone. The model's run is not told. Raises what fetching the model
    and delivering raise, InvalidModel for credentials in the model, and OutputError where no place is named.
    """
    if delivery.output is None and delivery.push is None:
        raise OutputError(
            "nothing on this machine takes a ModelPack artifact",
            hint="name where it goes: --push REGISTRY/NAME:TAG, or --output FOLDER (or FILE.tar)",
        )
    if delivery.output is not None and delivery.output.suffix != ".tar":
        refuse_other(delivery.output)
    check_compressor(request.compression)
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        reference, bundle = fetch_pinned(request.model, tools, workdir, reuse=reuse)
        reference = delivery.numbered(reference, bundle, tools)
        values = name_values(bundle, reference)
        push, tag = delivery.names(values)
        name = tag or push or ImageReference.parse(f"{values['name'] or 'model'}-modelpack")
        with _place(delivery.output, workdir) as layout:
            with tools.phases("build") as progress:
                image, manifest = _write(bundle, request, layout, workdir / "files", name)
                size = image.size + sum(blob.size for blob in {manifest.config, *manifest.layers})
                progress.made(f"{how_many(len(manifest.layers), 'layer')}, {size / 1e6:.1f} MB")
            if push is not None:
                _push(layout, image.digest, push, tools)
        return ModelPack(
            reference=name.with_digest(image.digest).familiar,
            digest=image.digest,
            config_digest=manifest.config.digest,
            size=size,
            model_digest=bundle.digest,
            layout=None if delivery.output is None else delivery.output.absolute(),
            pushed=None if push is None else push.with_digest(image.digest).familiar,
        )


@contextmanager
def _place(output: Path | None, workdir: Path) -> Iterator[Path]:
    """An empty folder for the layout, which becomes what was asked for at the end of the block."""
    if output is not None and output.suffix != ".tar":
        with replacing(output) as folder:
            yield folder
        return
    folder = workdir / "modelpack"
    folder.mkdir()
    yield folder
    if output is not None:
        if output.is_dir():
            raise OutputError(f"{output} is a folder", hint="name a file with --output")
        try:
            output.absolute().parent.mkdir(parents=True, exist_ok=True)
            layouts.write_layout_tar(folder, output)
        except OSError as error:
            raise output_error(error, output) from error


def _write(
    bundle: ModelBundle, request: ModelPackRequest, layout: Path, staged: Path, name: ImageReference
) -> tuple[Descriptor, Manifest]:
    labels = dict(request.labels)
    check_labels(labels)
    (layout / "blobs" / "sha256").mkdir(parents=True)
    # Compared with what the bundle says of each, and read from there: the folder may be a user's.
    stage_files(bundle, bundle.files, staged, move=False, path="/")
    layers, diff_ids = [], []
    for each in split(bundle):
        blobs = layout / "blobs" / "sha256"
        with room_for(blobs) as room:
            chunks = tar_chunks(_entries(each.files, staged))
            blob = write_blob(chunks, request.compression, blobs, scratch=".layer", ahead=room.add)
        inferred = "false" if each.kind == "code" else "true"
        layers.append(
            Descriptor(
                media_type=modelpack.layer_type(each.kind, request.compression),
                digest=blob.digest,
                size=blob.size,
                annotations=((modelpack.UNTESTED, inferred), (modelpack.FILEPATH, each.path)),
            )
        )
        diff_ids.append(blob.diff_id)
    config = modelpack.make_config(_describe(bundle), model_format="mlflow", diff_ids=diff_ids)
    stated = {**model_labels(bundle, EMPTY_BASE), **labels, PACKED_BY: packing(request.compression)}
    manifest = Manifest(
        artifact_type=modelpack.ARTIFACT_TYPE,
        config=layouts.write_json_blob(layout, config, modelpack.CONFIG),
        layers=tuple(layers),
        annotations=tuple(sorted(stated.items())),
    )
    image = layouts.write_json_blob(layout, manifest.to_json(), media.MANIFEST)
    # Without Docker's manifest.json: no engine of its loads this.
    for file, data in layouts.make_entrance(image, None, name).items():
        (layout / file).write_bytes(data)
    validate_layout(layout, depth="documents")
    return image, manifest


def split(bundle: ModelBundle) -> list[_Layer]:
    """A layer for each file, one for the code, and one for each folder of very many files."""
    folders: dict[str, list[ModelFile]] = {}
    for file in bundle.files:
        top, inside, _ = file.path.partition("/")
        folders.setdefault(top if inside else "", []).append(file)
    found = []
    for folder, files in sorted(folders.items()):
        if folder == _CODE:
            found.append(_Layer(kind="code", path=folder, files=tuple(files)))
        elif folder and len(files) > _ALONE:
            found.append(_Layer(kind="weight", path=folder, files=tuple(files)))
        else:
            found += [_Layer(kind=_kind(each.path), path=each.path, files=(each,)) for each in files]
    return found


def _kind(path: str) -> modelpack.Kind:
    name = PurePosixPath(path)
    if name.stem.upper() in _READ_FIRST:
        return "doc"
    return "weight.config" if name.suffix in _TEXTS else "weight"


def _entries(files: Iterable[ModelFile], root: Path) -> Iterator[Entry]:
    """Sorted, folders first, nobody's and of no time."""
    made: set[str] = set()
    for file in sorted(files, key=lambda each: each.path.split("/")):
        parts = posixpath.dirname(file.path).split("/")
        for depth in range(1, len(parts) + 1 if parts != [""] else 1):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                yield Entry(name=folder.encode(), kind=DIRECTORY, mode=0o755)
        source = root / native(file.path)
        yield Entry(name=file.path.encode(), kind=FILE, mode=0o644, size=file.size, source=str(source))


def _describe(bundle: ModelBundle) -> dict[str, object]:
    facts = bundle.facts
    told = {name.rpartition(".")[2]: value for name, value in labels_for_tools(facts, EMPTY_BASE).items()}
    return {
        "createdAt": rfc3339(facts.created),
        "name": facts.name,
        "version": told["version"],
        "revision": told["revision"],
        "sourceURL": told["source"],
        "licenses": [told["licenses"]] if told["licenses"] else None,
    }


def _push(layout: Path, digest: Digest, reference: ImageReference, tools: Tools) -> None:
    from kbuild.image.registry.blob_places import BlobPlaces
    from kbuild.image.registry.transfer import push_image  # requests

    places = BlobPlaces(root=tools.cache / "registries")
    with tools.phases("publish") as progress:
        push_image(layout, digest, reference, places=places, progress=progress)

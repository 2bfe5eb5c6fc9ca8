"""Writing manifests into a folder that may be a repository's: what is kbuild's is replaced, what is not is left."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kbuild.cache.notes import write_whole
from kbuild.deploy.kubernetes import BY_REQUESTS, MONITORING, Files
from kbuild.deploy.serverless import BEFORE
from kbuild.errors import OutputError

MARK = (
    "# Written by kbuild deploy: it is written anew by the next one; change it with Kustomize or the command's options."
)


def write_files(files: Files, folder: Path) -> list[Path]:
    """Write them; files of an earlier time that are no longer among them go. Returns those written.

    The same values give the same bytes. Raises OutputError for what cannot be written, and for files of those names
    that are somebody else's; then nothing is changed.
    """
    texts = {folder / name: _text(documents) for name, documents in sorted(files.items())}
    try:
        foreign = [path for path in texts if path.exists() and not _is_ours(path)]
        if foreign:
            named = ", ".join(map(str, foreign))
            raise OutputError(f"{named} was not written by kbuild deploy", hint="name another folder with --output")
        # Other folders in it may be other deployments.
        places = (folder, *(folder / each for each in (MONITORING, BY_REQUESTS, BEFORE)))
        old = [path for place in places for path in place.glob("*.yaml") if _is_ours(path)]
        for path, text in texts.items():
            write_whole(path, text.encode())
        for path in old:
            if path not in texts:
                path.unlink()
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    return list(texts)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK.encode()


def _text(documents: list[dict[str, object]]) -> str:
    return MARK + "\n" + yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


# Texts that PyYAML writes plain, for they are none of YAML 1.1's numbers as it has them, and that others read as
# something else: floats without a point and 0o17 of YAML 1.2 (go-yaml, so kubectl, Kustomize and Compose), y of 1.1.
_MISREAD = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?|[-+]?0[oO][0-7_]+|[yYnN]")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """What stands twice is written twice: Kustomize and people read no anchors."""
        return True

    def represent_str(self, text: str) -> yaml.ScalarNode:
        """Quoted where some reader takes the plain text for another value."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _MISREAD.fullmatch(text) else None)


_Dumper.add_representer(str, _Dumper.represent_str)

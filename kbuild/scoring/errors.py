"""What can be wrong with a batch; errors of archives alone, so that models and images do not carry them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from kbuild.errors import KbuildError


class InputRefused(KbuildError):
    """A table to score that is not there, cannot be read, or lacks columns of the model."""

    exit_code = 80


class RowsFailed(KbuildError):
    """Rows that the model does not answer."""

    exit_code = 81


class OtherAnswers(KbuildError):
    """A place that holds the answers to another input, by another model, or with other options."""

    exit_code = 82


class SparkFailed(KbuildError):
    """Spark cannot be used, or gave up; what is finished is kept."""

    exit_code = 84


class WorkerLost(KbuildError):
    """A process that scored was killed; what is finished is kept."""

    exit_code = 83


def hint_recoding(raw: bytes, path: str) -> str:
    """What makes UTF-8 of a file of text whose first line this is."""
    kind = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}.get(raw[:2])
    kind = kind or ("UTF-16LE" if raw[1:2] == b"\0" else "UTF-16BE" if raw[:1] == b"\0" else "ISO-8859-1")
    return f"CSV is read as UTF-8: iconv -f {kind} -t UTF-8 {shlex.quote(path)} > utf8.csv"


def hint_unpacking(path: str) -> str | None:
    """What unpacks a file with such a name; None where it does not look packed."""
    if path.lower().endswith(".gz"):
        return f"unpack it first: gunzip -k {shlex.quote(path)}"
    return "unpack it first" if path.lower().endswith((".zip", ".bz2", ".xz", ".zst", ".lz4")) else None


def not_parquet(shown: str, reason: str) -> InputRefused:
    """What is raised where a table is none of Parquet, or is at a server without ranges (RFC 9110 section 14).

    ``reason`` is the reader's, of which fsspec's word for the latter is known.
    """
    whole = "range requests" in reason
    return InputRefused(
        f"{shown} is not a Parquet file that can be read: {reason}",
        hint="download it first (curl -LO), and name the file" if whole else None,
    )


def no_table(message: str, endings: Iterable[str], typed: str) -> InputRefused:
    """What is raised where a place has no table, with the name beside it that may have been meant."""
    path, nearest = Path(typed), list[str]()
    with contextlib.suppress(OSError, ValueError):
        nearest = (
            [] if path.exists() else get_close_matches(path.name, [each.name for each in path.parent.iterdir()], n=1)
        )
    meant = f"did you mean {path.with_name(nearest[0])}?" if nearest else None
    return InputRefused(message, hint=meant or f"a file, folder or pattern of {', '.join(endings)} files")


def hint_scheme(scheme: str) -> str:
    """What to write in the place of a url whose scheme fsspec refuses, or knows only with other parts."""
    import fsspec

    if scheme in (named := sorted(fsspec.available_protocols())):
        return "check the url, or name a file of this machine"
    nearest = get_close_matches(scheme.lower(), named, n=1)
    usual = "name a file, a folder, or a url such as s3://, gs://, abfs://, hdfs:// or https://"
    return f"did you mean {nearest[0]}://? Or {usual}" if nearest else usual

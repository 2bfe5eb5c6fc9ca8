"""The commit of the project that is run: of its own repository, which need not be the one that holds Python."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kbuild.errors import ProgramNotFound
from kbuild.process import run as run_program

COMMIT = "mlflow.source.git.commit"
DIRTY = "mlflow.source.git.dirty"
SOURCE = "mlflow.source.git.repoURL"
BRANCH = "mlflow.source.git.branch"
NAMES = (COMMIT, DIRTY, SOURCE, BRANCH)
"""MLflow's names (mlflow.utils.mlflow_tags), all that it may have written of the repository that holds its program."""

_SCP = re.compile(r"((?:[\w.-]+@)?[\w.-]+):(?!//)(\S+)")
# What runs leave in a project's folder by default: a training must not make the next one a changed project.
_OWN = (":(exclude)mlflow.db*", ":(exclude)mlartifacts", ":(exclude)mlruns", ":(exclude).kbuild")
# Set where git itself started us, as a hook: they name another folder than the one that is asked for.
_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The commit a project is at, 40 hexadecimal characters, and whether files differ from it.

    ``source`` is the url of its ``origin``, without credentials; None where that is a folder of this machine.
    ``branch`` is None where none is checked out.
    """

    commit: str
    dirty: bool
    source: str | None = None
    branch: str | None = field(default=None, compare=False)


def read_git_state(project_path: Path) -> GitState | None:
    """The project's commit; None where there is no git, and no repository that holds the project's files.

    A repository further up that has none of them, one of settings in the home folder say, is not the project's.
    """
    commit = _ask_git(project_path, "rev-parse", "HEAD")
    if commit is None:
        return None
    below = _ask_git(project_path, "rev-parse", "--show-prefix")
    if below and not _ask_git(project_path, "ls-tree", "--name-only", "HEAD", "."):
        return None
    return GitState(
        commit=commit,
        dirty=bool(_ask_git(project_path, "status", "--porcelain", "--", ".", *_OWN)),
        source=_plain_url(_ask_git(project_path, "remote", "get-url", "origin")),
        branch=_ask_git(project_path, "symbolic-ref", "--quiet", "--short", "HEAD") or None,
    )


def git_tags(git: GitState | None) -> dict[str, str]:
    """Tags of a run in MLflow's own names."""
    if git is None:
        return {}
    tags = {COMMIT: git.commit, DIRTY: str(git.dirty).lower(), SOURCE: git.source, BRANCH: git.branch}
    return {name: value for name, value in tags.items() if value is not None}


def _plain_url(text: str | None) -> str | None:
    """A remote as a url that anybody may see: ``git@host:path`` is ssh (git's docs, "GIT URLS")."""
    if not text:
        return None
    scp = _SCP.fullmatch(text)
    parts = urlsplit(text if scp is None else f"ssh://{scp[1]}/{scp[2].lstrip('/')}")
    if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
        return None
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.scheme == "ssh" and parts.username else ""
    return parts._replace(netloc=user + host, query="", fragment="").geturl()


def _ask_git(folder: Path, *arguments: str) -> str | None:
    environ = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    try:
        done = run_program(["git", *arguments], cwd=folder, env=environ)
    except (ProgramNotFound, OSError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

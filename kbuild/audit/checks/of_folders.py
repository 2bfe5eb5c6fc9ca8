"""Wheels that a lock took from a folder of the machine that made it, such as torch's CPU build or a team's own.

They travel with the lock, so no url says where they are from: what vouches for them is that a folder which pip is
configured with has the very file.
"""

from __future__ import annotations

from collections.abc import Collection

from kbuild.audit.finding import Finding, Unchecked
from kbuild.audit.lockview import LockEntry, LockView
from kbuild.audit.subject import Subject
from kbuild.environment.index.folders import digests_here
from kbuild.environment.lockfile import LOCAL_URLS, SDIST_MARK
from kbuild.urls.credentials import without_credentials


def is_built(entry: LockEntry) -> bool:
    """Whether kbuild built this wheel from a source distribution: the lock says of which."""
    return _is_local(entry) and SDIST_MARK in (entry.url or "")


def is_of_folder(entry: LockEntry) -> bool:
    """Whether it is a wheel of a folder, which nobody built."""
    return _is_local(entry) and SDIST_MARK not in (entry.url or "")


def judge_folders(
    lock: LockView, subject: Subject, allowed: Collection[str], configured: Collection[str]
) -> tuple[list[Finding], list[Unchecked]]:
    """What is wrong with wheels of folders, and what cannot be told; where places are ``allowed`` no other counts."""
    own = (url for each in subject.own for url in (*each.urls, *each.find_links))
    places = tuple(allowed) or (*own, *configured)
    findings, unchecked = [], []
    for entry in filter(is_of_folder, lock.entries):
        if entry.sha256 in digests_here(entry.canonical, entry.filename, places):
            continue
        taken = f"{entry.filename} was taken from a folder of the machine that locked it"
        if allowed:
            stated = ", ".join(map(without_credentials, allowed))
            findings.append(
                Finding(
                    id="lock-origin",
                    check="lock",
                    severity="high",
                    where=entry.where,
                    version=entry.version,
                    evidence=f"{entry.place}: {taken}, and none of {stated} is a folder that has it",
                    remedy="add that folder to kbuild.yml's audit: allowed-indexes, as file:///…, or publish the wheel "
                    "on an allowed index and lock again",
                )
            )
        else:
            unchecked.append(
                Unchecked(
                    check="lock",
                    where=entry.where,
                    reason=f"{taken}, and no folder that pip is configured with here has it",
                    remedy="audit it where PIP_FIND_LINKS names that folder, or publish the wheel on your index and "
                    "lock again",
                )
            )
    return findings, unchecked


def _is_local(entry: LockEntry) -> bool:
    return entry.manager == "pip" and entry.url is not None and entry.url.startswith(LOCAL_URLS)

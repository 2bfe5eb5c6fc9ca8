"""Sharing models out among machines that know nothing of each other: CI matrices, Argo, Airflow, Slurm arrays.

Every machine is given the same models and comes to the same shares by itself. The largest model goes to the share that
has least so far (Graham's LPT rule: no share gets more than 4/3 of what is possible), which for models of one size
deals them out evenly. What is equal is ordered by a hash of its reference, so the order of the list is of no matter.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbuild.digest import Digest, digest_json
from kbuild.errors import ConfigurationError

# Bytes: what a model costs besides those of its files, which is mostly questions to servers.
_EACH = 20_000_000
_FORM = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Share ``number`` of ``count``; the first is 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``K/N``; raises ConfigurationError."""
        found = _FORM.fullmatch(text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigurationError(f"{text!r} is not a shard", hint="give K/N with K from 1 to N, such as 3/40")
        return cls(number=int(found[1]), count=int(found[2]))

    def of(self, models: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
        """This share, in the order of ``models``; ``sizes`` in bytes, of those whose size is known.

        What is of unknown size counts as the median of the others.
        """
        usual = statistics.median_low(sizes.values()) if sizes else 0
        costs = {model: _EACH + sizes.get(model, usual) for model in models}
        loads = [(0, number) for number in range(1, self.count + 1)]
        mine = set()
        for model in sorted(
            costs, key=lambda each: (-costs[each], hashlib.sha256(each.encode(errors="surrogatepass")).digest())
        ):
            load, lightest = loads[0]
            heapq.heapreplace(loads, (load + costs[model], lightest))
            if lightest == self.number:
                mine.add(model)
        return [model for model in costs if model in mine]


def digest_models(models: Sequence[str], sizes: Mapping[str, int]) -> Digest:
    """Of what shares depend on: machines that are told the same one have shares that fit together."""
    return digest_json(sorted((model, sizes.get(model)) for model in models))


def folder_sizes(folders: Mapping[str, Path]) -> dict[str, int]:
    """Bytes of the files in each folder; raises ConfigurationError where they cannot be read: shares depend on them."""
    sizes = {}
    for model, folder in folders.items():
        try:
            sizes[model] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except OSError as error:
            raise ConfigurationError(f"the size of {model} is not known: {error.strerror}") from error
    return sizes

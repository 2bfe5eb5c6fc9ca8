"""Texts and labels as they come: put together from phrases, where a team would fetch them."""

import random
from typing import Any

import pandas as pd
from kedro.pipeline import Pipeline, node

# Share of sentences that say the other thing than the review means: nobody learns these texts by heart.
MIXED = 0.2


def _write(phrases: dict[str, Any], split: dict[str, int]) -> list[tuple[str, str]]:
    chance = random.Random(split["seed"])
    made = []
    for _ in range(split["reviews"]):
        label = chance.choice(["negative", "positive"])
        other = "positive" if label == "negative" else "negative"
        said = [chance.choice(phrases[other if chance.random() < MIXED else label]) for _ in range(3)]
        made.append((" ".join([*said, chance.choice(phrases["neutral"])]), label))
    return made


def create_instances(phrases: dict[str, Any], split: dict[str, int]) -> pd.DataFrame:
    """The texts of one split."""
    return pd.DataFrame({"text": [text for text, _ in _write(phrases, split)]})


def create_labels(phrases: dict[str, Any], split: dict[str, int]) -> pd.DataFrame:
    """Their labels, in the same order."""
    return pd.DataFrame({"label": [label for _, label in _write(phrases, split)]})


def create_pipeline() -> Pipeline:
    """Both, for the split that is asked for."""
    inputs = {"phrases": "phrases", "split": "params:split"}
    return Pipeline(
        [
            node(create_instances, inputs, "instances", tags=["etl_instances"]),
            node(create_labels, inputs, "labels", tags=["etl_labels"]),
        ]
    )

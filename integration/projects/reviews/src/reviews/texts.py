"""From texts to numbers. As people write them: each step changes the table that it is given."""

import re
from collections import Counter

import numpy as np
import pandas as pd
from sklearn.preprocessing import LabelEncoder

WORD = re.compile(r"[a-z]+")


class Tokenizer:
    """Knows the most frequent words of the texts it was fitted on."""

    def __init__(self, words: int) -> None:
        self.words = words
        self.index: dict[str, int] = {}

    def fit(self, texts: list[str]) -> "Tokenizer":
        """Number the words, the most frequent first."""
        counts = Counter(word for text in texts for word in WORD.findall(text))
        self.index = {word: number for number, (word, _) in enumerate(counts.most_common(self.words))}
        return self

    def to_matrix(self, texts: list[str]) -> np.ndarray:
        """A row for each text, a column for each word: 1.0 where the one has the other."""
        matrix = np.zeros((len(texts), self.words), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in WORD.findall(text):
                if word in self.index:
                    matrix[row, self.index[word]] = 1.0
        return matrix


def lower(data: pd.DataFrame) -> pd.DataFrame:
    """The texts in small letters."""
    data["text"] = data["text"].str.lower()
    return data


def remove_stop_words(data: pd.DataFrame, stop_words: list[str]) -> pd.DataFrame:
    """The texts without words that say nothing."""
    stop_words.sort(key=len, reverse=True)
    data["text"] = data["text"].apply(lambda text: " ".join(word for word in text.split() if word not in stop_words))
    return data


def remove_punctuation(data: pd.DataFrame) -> pd.DataFrame:
    """The texts without full stops and the like."""
    data["text"] = data["text"].str.replace(r"[^\w\s]", "", regex=True)
    return data


def to_list(data: pd.DataFrame) -> list[str]:
    """The texts alone."""
    return data["text"].tolist()


def fit_tokenizer(texts: list[str], words: int) -> Tokenizer:
    """Learn the words."""
    return Tokenizer(words).fit(texts)


def one_hot(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Which words each text has."""
    return tokenizer.to_matrix(texts)


def fit_encoder(labels: pd.DataFrame) -> LabelEncoder:
    """Learn the labels."""
    return LabelEncoder().fit(labels["label"])

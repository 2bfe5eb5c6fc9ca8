"""Makes the serving tests' models importable: pytest's importlib mode leaves the folder off sys.path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

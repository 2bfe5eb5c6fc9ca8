"""What people train with: for each library the packages to install and a module that learns from a small table.

``fit(rows, outcome)`` returns what is kept of training, ``predict(model, rows)`` a table with a column ``outcome``.
"""

from __future__ import annotations

from dataclasses import dataclass

_PREDICT = """

def predict(model, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"outcome": np.asarray(model.predict(rows), dtype=float)})
"""
_XGBOOST = f"""
import numpy as np
import pandas as pd
from xgboost import XGBRegressor


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    return XGBRegressor(n_estimators=40, max_depth=3, random_state=3).fit(rows, outcome["outcome"])
{_PREDICT}"""
_LIGHTGBM = f"""
import numpy as np
import pandas as pd
from lightgbm import LGBMRegressor


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    return LGBMRegressor(n_estimators=40, verbose=-1, random_state=3).fit(rows, outcome["outcome"])
{_PREDICT}"""
_CATBOOST = f"""
import numpy as np
import pandas as pd
from catboost import CatBoostRegressor


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    made = CatBoostRegressor(iterations=40, depth=3, random_seed=3, allow_writing_files=False, silent=True)
    return made.fit(rows, outcome["outcome"])
{_PREDICT}"""
_STATSMODELS = """
import pandas as pd
import statsmodels.api as sm


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    return sm.OLS(outcome["outcome"], sm.add_constant(rows)).fit()


def predict(model, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"outcome": model.predict(sm.add_constant(rows, has_constant="add"))})
"""
_TORCH = """
import pandas as pd
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers(rows)


def fit(rows: pd.DataFrame, outcome: pd.DataFrame) -> dict:
    torch.manual_seed(3)
    net, inputs = Net(), torch.tensor(rows.to_numpy(), dtype=torch.float32)
    wanted = torch.tensor(outcome.to_numpy(), dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(inputs), wanted).backward()
        optimizer.step()
    return net.state_dict()


def predict(model: dict, rows: pd.DataFrame) -> pd.DataFrame:
    net = Net()
    net.load_state_dict(model)
    with torch.inference_mode():
        found = net(torch.tensor(rows.to_numpy(), dtype=torch.float32))
    return pd.DataFrame({"outcome": found.numpy()[:, 0].astype(float)})
"""
_ONNXRUNTIME = """
import numpy as np
import onnxruntime
import pandas as pd


def fit(rows: pd.DataFrame, outcome: pd.DataFrame) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    inputs = np.column_stack([rows, np.ones(len(rows))])
    found = np.linalg.lstsq(inputs, outcome.to_numpy(), rcond=None)[0].astype(np.float32)
    nodes = [helper.make_node("MatMul", ["rows", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(found[:4], "w"), numpy_helper.from_array(found[4], "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def predict(model: bytes, rows: pd.DataFrame) -> pd.DataFrame:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"rows": rows.to_numpy(np.float32)})
    return pd.DataFrame({"outcome": found[:, 0].astype(float)})
"""
_TENSORFLOW = """
import numpy as np
import pandas as pd
import tensorflow as tf


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    tf.keras.utils.set_random_seed(3)
    layers = [tf.keras.Input((4,)), tf.keras.layers.Dense(8, activation="relu"), tf.keras.layers.Dense(1)]
    net = tf.keras.Sequential(layers)
    net.compile(optimizer="adam", loss="mse")
    net.fit(rows.to_numpy(), outcome.to_numpy(), epochs=20, verbose=0)
    return net


def predict(model, rows: pd.DataFrame) -> pd.DataFrame:
    found = model(tf.constant(rows.to_numpy(), dtype=tf.float32)).numpy()
    return pd.DataFrame({"outcome": np.asarray(found[:, 0], dtype=float)})
"""
_JAX = """
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd


@jax.jit
def _linear(weights, inputs):
    return inputs @ weights[:4] + weights[4]


def fit(rows: pd.DataFrame, outcome: pd.DataFrame):
    inputs, wanted = jnp.asarray(rows.to_numpy()), jnp.asarray(outcome["outcome"].to_numpy())
    slope = jax.jit(jax.grad(lambda weights: ((_linear(weights, inputs) - wanted) ** 2).mean()))
    weights = jnp.zeros(5)
    for _ in range(200):
        weights -= 0.1 * slope(weights)
    return np.asarray(weights)


def predict(model, rows: pd.DataFrame) -> pd.DataFrame:
    found = _linear(jnp.asarray(model), jnp.asarray(rows.to_numpy()))
    return pd.DataFrame({"outcome": np.asarray(found, dtype=float)})
"""


@dataclass(frozen=True, kw_only=True)
class Library:
    """``install`` is what its environment gets beside Kedro and kbuild, ``cpu`` what has builds of its own without a
    driver (``2.x+cpu``); ``code`` is the module that learns with it. ``heavy`` ones take gigabytes, or minutes for what
    another one shows as well: CI leaves them to be run by hand."""

    name: str
    install: tuple[str, ...]
    code: str
    heavy: bool = False
    cpu: str | None = None


LIBRARIES = (
    Library(name="xgboost", install=("xgboost", "scikit-learn"), code=_XGBOOST),
    Library(name="lightgbm", install=("lightgbm", "scikit-learn"), code=_LIGHTGBM, heavy=True),
    Library(name="statsmodels", install=("statsmodels",), code=_STATSMODELS, heavy=True),
    Library(name="onnxruntime", install=("onnxruntime", "onnx"), code=_ONNXRUNTIME, heavy=True),
    Library(name="catboost", install=("catboost",), code=_CATBOOST, heavy=True),
    Library(name="jax", install=("jax",), code=_JAX, heavy=True),
    Library(name="torch", install=(), cpu="torch", code=_TORCH, heavy=True),
    Library(name="tensorflow", install=("tensorflow-cpu",), code=_TENSORFLOW, heavy=True),
)

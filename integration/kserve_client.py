"""Asks a server by KServe's SDK, in an environment that has it: ``python kserve_client.py URL EXAMPLE``.

It prints JSON: what the SDK found ready, the model's metadata as the server tells it, and the outputs by name, once for
tensors in JSON and once for tensors in binary.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.utils.numpy_codec import to_np_dtype


async def ask(url: str, example: Path) -> dict[str, Any]:
    """What there is to print."""
    split = json.loads(example.read_text("utf-8"))["dataframe_split"]
    with urllib.request.urlopen(f"{url}/v2/models/model", timeout=10) as answer:  # noqa: S310 - of this machine
        described = json.load(answer)
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
    found: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, "model"),
        "answers": [],
    }
    for binary in (False, True):
        inputs = []
        for number, each in enumerate(described["inputs"]):
            values = np.array([[row[number]] for row in split["data"]], to_np_dtype(each["datatype"]))
            inputs.append(InferInput(each["name"], [*values.shape], each["datatype"]))
            inputs[-1].set_data_from_numpy(values, binary_data=binary)
        told = await client.infer(url, InferRequest("model", inputs), model_name="model")
        found["answers"].append({each.name: each.as_numpy().ravel().tolist() for each in told.outputs})
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1], Path(sys.argv[2])))))

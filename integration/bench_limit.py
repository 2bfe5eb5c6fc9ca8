"""24 models of 6 environments built, verified and run in one cache with a limit, whose bytes on disk are sampled.

    python integration/bench_limit.py FOLDER [GB [MODELS]]     # 8 GB, tens of minutes; FOLDER goes at the end

Each model has an artifact of its own, and each environment a wheel that no other has.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from small_models import copy_model
from test_cache_limit import on_disk, sampled
from tool import BIN, PROJECT, Tool, copy_project, served

ARTIFACT = 160_000_000
EXTRA = ("colorama==0.4.6", "iniconfig==2.1.0", "mccabe==0.7.0", "pyflakes==3.4.0", "toml==0.10.2", "tomli==2.2.1")


def main(folder: Path, limit: int = 8_000_000_000, models: int = 24) -> None:
    began = time.monotonic()
    cache, project = folder / "cache", copy_project(folder / "project", PROJECT.parent / "tally")
    environment = {"DOCKER_HOST": f"unix://{folder}/no.sock", "KBUILD_CACHE_LIMIT": str(limit), "KBUILD_VERIFY": "0"}
    tool = Tool(cache=cache, environment=environment)
    trained = tool.run([BIN / "kedro", "run"], cwd=project)
    assert trained.code == 0, trained.err[-3000:]
    [logged] = (project / "mlartifacts/models").glob("*/artifacts")
    cache.mkdir(exist_ok=True)
    over = 0
    with sampled(cache) as sampler:
        for number in range(models):
            model = copy_model(logged, folder / "model", number, size=ARTIFACT)
            for name, indent in (("conda.yaml", "  - "), ("requirements.txt", "")):
                path, wanted = model / name, EXTRA[number % len(EXTRA)]
                lines = path.read_text().splitlines()
                place = next(n for n, line in enumerate(lines) if line.startswith(f"{indent}pandas"))
                path.write_text("\n".join([*lines[: place + 1], f"{indent}{wanted}", *lines[place + 1 :]]) + "\n")
            image = tool("image", model, cwd=project).out.strip()
            verified = tool("verify", "-v", image, cwd=project)
            with served(tool, image, project) as url:
                assert url.startswith("http://127.0.0.1:"), url
            shutil.rmtree(model)
            over += sampler.peak > limit
            now = on_disk(cache)
            row = {"model": number, "environment": wanted, "unpacked": verified.err.count("unpacking layer")}
            print(json.dumps({**row, "on disk": now, "largest": sampler.peak, "s": round(time.monotonic() - began)}))
            sys.stdout.flush()
    print(json.dumps({"limit": limit, "largest": sampler.peak, "samples": sampler.samples, "over": over}))
    shutil.rmtree(folder)


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    main(Path(folder), *(int(float(number) * scale) for number, scale in zip(numbers, (10**9, 1), strict=False)))

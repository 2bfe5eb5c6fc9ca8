"""Sizes are those of real wheels, rounded: of torch's CUDA build, of xgboost, of a plain environment."""

from dataclasses import replace

from world import HOST, World

from kbuild.environment.index.downloads import cache_path
from kbuild.environment.lockfile import LockedPackage
from kbuild.workflow.large import large_packages, tell_large


def test_a_family_counts_together_and_a_package_for_itself() -> None:
    sizes = {
        "torch": 890_000_000,
        "nvidia-cublas": 540_000_000,
        "nvidia-nccl": 190_000_000,
        "pandas": 11_000_000,
        "scipy": 35_000_000,
    }
    torch, nvidia = large_packages(sizes)
    assert torch.startswith("torch: wheels of 890 MB; its CPU build")
    assert nvidia.startswith("nvidia-* (2 packages): wheels of 730 MB; a model that is served without a GPU")


def test_nothing_is_said_of_what_is_small_or_only_shares_a_word() -> None:
    assert large_packages({"nvidia-nccl-cu12": 190_000_000, "pandas": 11_000_000}) == []
    assert large_packages({"scikit-learn": 9_000_000, "scikit-image": 14_000_000}) == []
    [one] = large_packages({"big-data": 201_000_000, "big-small": 1})
    assert one.startswith("big-data: wheels of 201 MB; --slim")
    [alone] = large_packages({"nvidia-nccl-cu12": 290_000_000, "xgboost": 130_000_000})
    assert alone.startswith("nvidia-nccl-cu12: wheels of 290 MB; a model that is served without a GPU")
    assert "xgboost-cpu" in alone
    [family] = large_packages({"py-a": 120_000_000, "py-b": 120_000_000})
    assert family.startswith("py-* (2 packages): wheels of 240 MB")


def test_what_is_large_is_told_by_the_files_that_are_there(world: World) -> None:
    wheels = []
    for number, (name, size) in enumerate({"torch": 201_000_000, "small": 10, "away": None}.items()):
        url = f"https://files.example/{name}-1-py3-none-any.whl"
        facts = {"name": name, "version": "1", "manager": "pip", "platform": HOST, "url": url}
        wheels.append(LockedPackage(**facts, sha256=f"{number}" * 64))  # type: ignore[arg-type]
        if size is not None:
            path = cache_path(wheels[-1], world.tools.cache / "downloads")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)  # takes no room
    tell_large(wheels, world.tools)
    phase, line = world.heard.notes[-2:]
    assert phase == "size:" and line.startswith("size: torch: wheels of 201 MB; its CPU build")
    world.heard.notes.clear()
    tell_large(wheels[1:], replace(world.tools))
    assert world.heard.notes == []

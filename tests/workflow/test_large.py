"""Sizes are those of real wheels, rounded: of torch's CUDA build, of xgboost, of a plain environment."""

from kbuild.workflow.large import large_packages


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

import pytest

from kbuild.errors import PlatformError
from kbuild.platform import Platform


@pytest.mark.parametrize(("oci", "conda"), [("linux/amd64", "linux-64"), ("linux/arm64", "linux-aarch64")])
def test_both_names_mean_one_platform(oci: str, conda: str) -> None:
    assert Platform.parse(oci).conda_subdir == conda
    assert str(Platform.from_conda_subdir(conda)) == oci


@pytest.mark.parametrize("text", ["", "linux", "linux/", "windows/amd64", "linux/amd64/v2", "amd64"])
def test_unknown_platforms_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(PlatformError) as caught:
        Platform.parse(text)
    assert "linux/amd64" in str(caught.value.hint)


def test_noarch_is_no_platform_of_an_image() -> None:
    with pytest.raises(PlatformError):
        Platform.from_conda_subdir("noarch")

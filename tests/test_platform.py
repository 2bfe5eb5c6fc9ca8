import pytest

from kbuild.errors import PlatformError
from kbuild.platform import Platform, known_platforms


@pytest.mark.parametrize(("oci", "conda"), [("linux/amd64", "linux-64"), ("linux/arm64", "linux-aarch64")])
def test_both_names_mean_one_platform(oci: str, conda: str) -> None:
    assert Platform.parse(oci).conda_subdir == conda
    assert str(Platform.from_conda_subdir(conda)) == oci
    assert Platform.parse(conda) == Platform.parse(oci)


def test_a_list_has_each_platform_once_in_one_order() -> None:
    both = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert Platform.parse_list("linux/arm64, linux/amd64,linux-64") == both == known_platforms()
    with pytest.raises(PlatformError):
        Platform.parse_list("linux/amd64,")


@pytest.mark.parametrize("text", ["", "linux", "linux/", "windows/amd64", "linux/amd64/v2", "amd64"])
def test_unknown_platforms_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(PlatformError) as caught:
        Platform.parse(text)
    assert "linux/amd64" in str(caught.value.hint)


def test_noarch_is_no_platform_of_an_image() -> None:
    with pytest.raises(PlatformError):
        Platform.from_conda_subdir("noarch")

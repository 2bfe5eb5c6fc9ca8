"""Whether a wheel's place is one that an index of pip's leads to, by what pip itself says of its own index."""

from pip._internal.models.index import PyPI

from kbuild.environment.origins import file_server, is_of_channel, is_of_index

FILE = "packages/ab/demo-1-py3-none-any.whl"


def test_the_files_of_pips_own_index_lie_on_the_server_that_pip_knows() -> None:
    own = PyPI.simple_url
    assert is_of_index(f"https://{PyPI.file_storage_domain}/{FILE}", [own])
    assert not is_of_index(f"http://{PyPI.file_storage_domain}/{FILE}", [own]), "never in clear"
    assert not is_of_index(f"https://{PyPI.file_storage_domain}.evil.example/{FILE}", [own])
    assert not is_of_index(f"https://{PyPI.file_storage_domain}/{FILE}", ["https://mirror.example/simple"])


def test_of_another_index_only_its_own_server_is_known() -> None:
    assert file_server("https://mirror.example/simple") == "https://mirror.example/simple"
    assert is_of_index(f"https://mirror.example/{FILE}", ["https://mirror.example/simple"])
    assert not is_of_index(f"https://files.example/{FILE}", ["https://mirror.example/simple"])


PACKAGE = "linux-64/zlib-1.3.1-hb9d3cd8_2.conda"


def test_a_label_of_a_channel_is_another_channel() -> None:
    """As conda takes them: ``-c conda-forge`` has nothing of ``-c conda-forge/label/broken``."""
    alias = "https://conda.anaconda.org"
    for inside in ("conda-forge/label/broken", "conda-forge/label/main", "conda-forge%2flabel%2fx"):
        url = f"{alias}/{inside}/{PACKAGE}"
        assert not is_of_channel(url, ["conda-forge", f"{alias}/conda-forge/"], {}), url
    for channel in ("conda-forge/label/broken", f"{alias}/conda-forge/label/broken", alias):
        assert is_of_channel(f"{alias}/conda-forge/label/broken/{PACKAGE}", [channel], {}), channel
    for channel in ("conda-forge", f"{alias}/conda-forge", f"{alias}/conda-forge/", f"{alias}/t/token/conda-forge"):
        assert is_of_channel(f"{alias}/conda-forge/{PACKAGE}", [channel], {}), channel
    assert is_of_channel(f"file:///srv/own/{PACKAGE}", ["/srv/own"], {})
    assert not is_of_channel(f"file:///srv/own/label/x/{PACKAGE}", ["/srv/own"], {})
    assert is_of_channel(f"https://repo.anaconda.com/pkgs/main/{PACKAGE}", ["defaults"], {})

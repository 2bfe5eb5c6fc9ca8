"""Whether a wheel's place is one that an index of pip's leads to, by what pip itself says of its own index."""

from pip._internal.models.index import PyPI

from kbuild.environment.origins import file_server, is_of_index

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

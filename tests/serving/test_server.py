from kbuild.serving.server import limit_pools


def test_pools_have_one_thread_where_nobody_said_how_many() -> None:
    environment = {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": ""}
    limit_pools(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": "1"}

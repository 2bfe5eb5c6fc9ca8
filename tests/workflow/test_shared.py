import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidReference
from kbuild.workflow.once import Shared


def test_the_first_leads_and_the_others_take() -> None:
    shared, running, most = Shared(), [], []

    def work(number: int) -> bool:
        with shared.leading(["a", "b"]) as first:
            if first:
                running.append(number)
                most.append(len(running))
                time.sleep(0.02)
                running.remove(number)
            return first

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(16))) == 1
    assert most == [1]


def test_what_fails_is_led_by_the_next() -> None:
    shared = Shared()
    with pytest.raises(ValueError), shared.leading(["a"]) as first:
        assert first
        raise ValueError
    with shared.leading(["a"]) as first:
        assert first
    with shared.leading(["a"]) as first:
        assert not first


def test_keys_are_taken_in_one_order_so_nobody_waits_for_ever() -> None:
    shared, begin = Shared(), threading.Barrier(2)

    def work(keys: list[str]) -> None:
        begin.wait(5)
        with shared.leading(keys):
            time.sleep(0.01)

    for number in range(20):
        names = [f"{number}-{each}" for each in "abcd"]
        threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in (names, names[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def test_a_value_is_made_once() -> None:
    shared, made = Shared(), []
    for _ in range(3):
        assert shared.once("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_two_images_cannot_have_one_name() -> None:
    shared = Shared()
    shared.claim("churn:1", digest_bytes(b"one"))
    shared.claim("churn:1", digest_bytes(b"one"))
    with pytest.raises(InvalidReference, match=r"churn:1 is already the name of another"):
        shared.claim("churn:1", digest_bytes(b"two"))

"""in_parallel: order, progress, errors."""

import threading

import pytest
from threadpoolctl import threadpool_info

from lcnn_compress.parallel import in_parallel


def test_results_are_in_order_and_progress_counts():
    seen = []
    found = in_parallel(lambda i: i * i, range(20), "squares", lambda *step: seen.append(step))
    assert found == [i * i for i in range(20)]
    assert seen == [("squares", done, 20) for done in range(21)]


def test_matrix_libraries_have_one_thread_each():
    counts = in_parallel(lambda _: {info["num_threads"] for info in threadpool_info()}, range(3), "looking")
    assert counts == [{1}] * 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_the_call_and_what_was_not_begun_is_not(error):
    begun = []
    first = threading.Event()

    def work(i):
        begun.append(i)
        if i == 0:
            first.set()
            raise error("no")
        first.wait()
        return i

    with pytest.raises(error, match="no"):
        in_parallel(work, range(10_000), "failing")
    assert len(begun) < 10_000


def test_ctrl_c_does_not_wait_for_what_was_begun():
    done = threading.Event()

    def interrupt(stage, count, total):
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parallel(lambda i: i == 0 or done.wait(60), range(2), "waiting", interrupt)
    done.set()

"""The store of what was learned by signature: what was not used for longest goes first."""

from concurrent.futures import ThreadPoolExecutor

from skipcache.engines.recent import Recent


def test_what_was_not_used_for_longest_goes():
    store = Recent(2)
    store.put("a", 1)
    store.put("b", 2)
    assert store.get("a") == 1
    store.put("c", 3)
    assert store.get("b") is None and store.get("a") == 1 and store.get("c") == 3


def test_a_value_is_replaced_and_the_one_used_last_comes_last():
    store = Recent(3)
    for key, value in (("a", 1), ("b", 2), ("c", 3), ("a", 4)):
        store.put(key, value)
    assert store.values() == [2, 3, 4]
    store.get("b")
    assert store.values() == [3, 4, 2]


def test_threads_do_not_break_it():
    store = Recent(4)

    def work(seed):
        for i in range(500):
            store.put((seed * i) % 7, i)
            store.get(i % 7)
            assert len(store.values()) <= 4

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(1, 5)))

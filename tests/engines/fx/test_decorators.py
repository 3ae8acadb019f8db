"""A forward is run under its decorators, with another function in the place of the innermost one."""

import functools

from skipcache.engines.fx.decorators import innermost, rewrapped

LOG = []


def logged(name, times=1):
    """A decorator as libraries write them: it keeps the wrapped function in its closure."""

    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, scale=times, **kwargs):
            LOG.append(f"{name} in")
            try:
                return function(*args, **kwargs) * scale
            finally:
                LOG.append(f"{name} out")

        return wrapper

    return decorate


def plain(x):
    return x + 1


@logged("outer", times=2)
@logged("inner", times=3)
def decorated(x):
    return x + 1


class Callable:
    """A decorator that is no function: what it wraps lies in no closure."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


def test_the_innermost_function_is_found_under_all_decorators():
    assert innermost(plain) is plain
    assert innermost(decorated)(1) == 2 and innermost(decorated).__closure__ is None


def test_decorators_run_in_order_around_the_step():
    LOG.clear()
    assert rewrapped(decorated, lambda x: 100 * x)(5) == 2 * 3 * 500
    assert LOG == ["outer in", "inner in", "inner out", "outer out"]


def test_the_decorated_function_itself_stays_as_it_is():
    rewrapped(decorated, lambda x: 0)
    assert decorated(1) == 2 * 3 * 2


def test_a_step_in_the_place_of_the_innermost_one_changes_nothing():
    assert rewrapped(decorated, innermost(decorated))(4) == decorated(4)
    assert rewrapped(plain, len) is len


def test_keyword_only_defaults_of_a_decorator_stay():
    assert rewrapped(decorated, lambda x: x)(5, scale=1) == 15


def test_a_wrapper_that_keeps_the_function_elsewhere_is_taken_for_the_innermost_one():
    wrapped = Callable(plain)
    assert innermost(wrapped) is wrapped
    assert rewrapped(wrapped, len) is len

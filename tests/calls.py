"""What a test does at a certain call of a function, such as to fail or to kill the process."""

import itertools


def before_call(function, number, act, where=lambda *_: True):
    """Return the function, whose ``number``-th call first calls ``act`` with the same arguments.

    Only calls count for whose arguments ``where`` holds.
    """
    calls = itertools.count(1)

    def wrapped(*arguments, **options):
        if where(*arguments) and next(calls) == number:
            act(*arguments)
        return function(*arguments, **options)

    return wrapped


def failing(error):
    """Return an act that raises an error."""

    def fail(*_, **__):
        raise error

    return fail

"""Futures that answer requests once their changes are on disk."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

from hostmanager_server.supervisor.errors import NotDurableError

AnswerT = TypeVar("AnswerT")


def answer_when_stored(future: Future[AnswerT], result: AnswerT, stored: Future[None] | None) -> None:
    """Set the result of `future` once `stored` is done; at once if `stored` is None.

    A failed `stored` fails `future` with NotDurableError.
    """
    if stored is None:
        future.set_result(result)
        return

    def done(stored: Future[None]) -> None:
        error = stored.exception()
        if error is None:
            future.set_result(result)
        else:
            failure = NotDurableError(str(error))
            failure.__cause__ = error
            future.set_exception(failure)

    stored.add_done_callback(done)


def copy_answer(done: Future[AnswerT], future: Future[AnswerT]) -> None:
    """Copy the result or the exception of a finished future to another future."""
    error = done.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())

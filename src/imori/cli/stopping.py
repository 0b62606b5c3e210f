"""Ctrl-C and SIGTERM: whatever a library makes of them, the command ends, and leaves nothing half-written."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

SOON = 0.01
"""Seconds after which a signal comes again that was raised where nothing can be."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM is as Ctrl-C is: KeyboardInterrupt.

    It comes out whatever became of it on its way. A library that is being imported makes an error of its own of it. In
    a callback of Python's garbage collector, as JAX has one, it is printed and lost: there it comes again.
    """
    asked = 0
    timers: list[threading.Timer] = []

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = number
        raise KeyboardInterrupt

    def lost(what: sys.UnraisableHookArgs) -> None:
        if asked and issubclass(what.exc_type, KeyboardInterrupt):
            timers.append(threading.Timer(SOON, _thread.interrupt_main, [asked]))
            timers[-1].start()
        else:
            usual_hook(what)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    main_thread = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main_thread else ()
    before = {number: signal.signal(number, stop) for number in numbers if signal.getsignal(number) in usual}
    usual_hook, sys.unraisablehook = sys.unraisablehook, lost
    try:
        yield
        if asked:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()
        sys.unraisablehook = usual_hook
        for number, handler in before.items():
            signal.signal(number, handler)

"""Ctrl-C and SIGTERM: whatever a library makes of them, the command ends, and leaves nothing half-written."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType

SOON = 0.01
"""Seconds after which a signal comes again that came where nothing can be raised."""
COMPILED = {getattr(ExtensionFileLoader, name).__code__ for name in ("create_module", "exec_module")}
"""What runs while a compiled module is initialised: an exception there has killed the process in JAX and PyTorch."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM is as Ctrl-C is: KeyboardInterrupt.

    It comes out whatever became of it on its way. A library that is being imported makes an error of its own of it. In
    a callback of Python's garbage collector, as JAX has one, it is printed and lost: there it comes again, and so it
    does where a compiled module is being initialised.
    """
    asked: signal.Signals | None = None
    ended, coming, here = False, False, threading.get_ident()

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = signal.Signals(number)
        while frame is not None and frame.f_code not in COMPILED:
            frame = frame.f_back
        if frame is None:
            raise KeyboardInterrupt
        soon()

    def soon() -> None:
        nonlocal coming
        if not coming:  # a second one would come while what the first one stopped is being cleared away
            coming = True
            _thread.start_new_thread(again, ())  # threading's would wait until it runs, and could be interrupted

    def again() -> None:
        nonlocal coming
        time.sleep(SOON)
        coming = False
        if asked and not ended:
            if sys.platform == "win32":
                _thread.interrupt_main(asked)
            else:
                signal.pthread_kill(here, asked)  # which wakes it, too

    def lost(what: sys.UnraisableHookArgs) -> None:
        if asked and issubclass(what.exc_type, KeyboardInterrupt):
            soon()
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
        ended = True
        sys.unraisablehook = usual_hook
        for number, handler in before.items():
            signal.signal(number, handler)

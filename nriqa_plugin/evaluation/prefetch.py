"""Working ahead: the next things are made in a background thread while the present one is used."""

import contextlib
import queue
import threading

END = object()


def prefetch(things, ahead=2):
    """Yield the same things in the same order, made in a background thread.

    At most ``ahead`` of them wait, so that memory stays bounded. What making one raises is raised here when its turn
    comes. Closing this generator (or an error in the loop over it) ends the thread.

    Args:
        things (Iterable): is only touched by the thread.
        ahead (int): at least 1.
    """
    waiting, stopped = queue.Queue(ahead), threading.Event()

    def put(entry):
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(entry, timeout=0.1)
                return True
        return False

    def work():
        error = None
        try:
            for thing in things:
                if not put((thing, None)):
                    break
        except BaseException as raised:  # whatever it is belongs to the loop
            error = raised
        finally:
            close = getattr(things, 'close', None)
            if close is not None:
                close()
        put((END, error))

    thread = threading.Thread(target=work, name='prefetch', daemon=True)
    thread.start()
    try:
        while True:
            thing, error = waiting.get()
            if thing is END:
                if error is not None:
                    raise error
                return
            yield thing
            del thing
    finally:
        stopped.set()
        thread.join()

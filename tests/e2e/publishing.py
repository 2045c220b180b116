"""What processes and greenlets of the tests do: publish, and end without a goodbye."""

import os
import signal

import django
from django.apps import apps


def ready():
    if not apps.ready:
        django.setup()


def publish(text):
    ready()
    from filtered_websocket.publish import publish

    publish(text, "default")


def publish_and_exit(text):
    """As a child of multiprocessing, whose atexit functions are never called, and harder."""
    publish(text)
    os._exit(0)


def publish_and_be_killed(text):
    publish(text)
    os.kill(os.getpid(), signal.SIGKILL)


def disconnect_and_exit(pk):
    ready()
    from filtered_websocket.disconnect import disconnect_user

    disconnect_user(pk)
    os._exit(0)


def publish_in_order(name, count):
    for n in range(count):
        publish(f"{name} {n:02}")


def ask_the_database():
    """SynchronousOnlyOperation where an event loop runs in this thread."""
    from django.contrib.auth import get_user_model

    return get_user_model().objects.count()


def read_history():
    """Each greenlet gets the page, though all ask at once."""
    from filtered_websocket.history import forget_history, history

    assert history("default").publications == []
    forget_history("default")

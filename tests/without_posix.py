"""
Run as a program: hides what Windows lacks, imports every module of the package, runs the
system checks and a pipeline with the in-memory layer.
"""

import asyncio
import importlib
import os
import pkgutil
import sys

sys.modules["resource"] = None
del os.fork, os.register_at_fork

import django  # noqa: E402
from django.core.checks import run_checks  # noqa: E402

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()

import filtered_websocket  # noqa: E402
from filtered_websocket.testing import connect  # noqa: E402


async def talk():
    filters = ["filtered_websocket.filters.broadcast_messages"]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("hello")
        print(await bob.receive())


for module in pkgutil.walk_packages(filtered_websocket.__path__, "filtered_websocket."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print([message.id for message in run_checks() if not message.is_silenced()])
asyncio.run(talk())

"""
What each contender serves: the smallest program its documentation would have you write.

All of them understand three kinds of path: ``/fan/<group>/`` sends a message to every
other member of the group, ``/self/<group>/`` to its sender too, ``/echo/`` back.
"""

import gc
import os

# As docs/load.md advises for many clients; for every contender in Python, so that no full
# collection stops one of them for half a second.
if os.environ.get("BENCH_GC") != "python":
    gc.set_threshold(50_000, 50, 100)

"""What a serving process looks like from inside."""

import asyncio
import os
from pathlib import Path

from django.http import JsonResponse
from django.urls import path

from filtered_websocket.hub.registry import active_hub
from filtered_websocket.views import ready

PAGE = os.sysconf("SC_PAGE_SIZE")


def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def state(request):
    hub = active_hub()
    names = [task.get_name() for task in asyncio.all_tasks()]
    return JsonResponse(
        {
            "tasks": [name for name in names if name.startswith("fws-")],
            "all_tasks": len(names),
            "files": len(os.listdir("/proc/self/fd")),
            "groups": 0 if hub is None else len(hub.groups),
            "rss": memory(),
        }
    )


urlpatterns = [path("state/", state), path("health/ready", ready)]

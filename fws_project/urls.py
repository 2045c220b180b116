"""Pages: the demo chat, its rooms, tickets, health, metrics, the admin."""

from django.contrib import admin
from django.urls import path

from filtered_websocket.views import demo, live, metrics, ready, ticket

from .routing import chat, tee

urlpatterns = [
    path("", demo, {"tee": tee}, name="chat"),
    path("rooms/<str:name>/", demo, {"websocket": chat, "tee": tee}, name="room"),
    path("ticket/", ticket, name="ticket"),
    path("health/live", live),
    path("health/ready", ready),
    path("metrics", metrics),
    path("admin/", admin.site.urls),
]

"""URLs to include: the demo page, tickets, health checks, and metrics."""

from django.urls import path

from .views import demo, live, metrics, ready, ticket

app_name = "filtered_websocket"
urlpatterns = [
    path("", demo, name="demo"),
    path("ticket/", ticket, name="ticket"),
    path("health/live", live, name="live"),
    path("health/ready", ready, name="ready"),
    path("metrics", metrics, name="metrics"),
]

"""URLs to include: the demo page, tickets, and health checks."""

from django.urls import path

from .views import demo, live, ready, ticket

app_name = "filtered_websocket"
urlpatterns = [
    path("", demo, name="demo"),
    path("ticket/", ticket, name="ticket"),
    path("health/live", live, name="live"),
    path("health/ready", ready, name="ready"),
]

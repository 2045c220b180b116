"""The HTTP API, and a page that signs for an app of the admin."""

from django.urls import include, path

urlpatterns = [
    path("", include("filtered_websocket.api.pusher")),
    path("", include("filtered_websocket.pusher.views"), {"app_id": "77"}),
]

"""URLs to include, as ``path("api/", include("filtered_websocket.api.urls"))``."""

from django.urls import path

from .views import api

app_name = "filtered_websocket_api"
urlpatterns = [path("<slug:method>", api, name="api")]

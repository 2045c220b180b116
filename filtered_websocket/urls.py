"""The demo page at the root of wherever this is included."""

from django.urls import path

from .views import demo

app_name = "filtered_websocket"
urlpatterns = [
    path("", demo, name="demo"),
]

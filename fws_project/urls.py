"""Pages: the demo chat, its rooms, the admin."""

from django.contrib import admin
from django.urls import path

from filtered_websocket.views import demo

from .routing import rooms

urlpatterns = [
    path("", demo, name="chat"),
    path("rooms/<str:name>/", demo, {"websocket": rooms}, name="room"),
    path("admin/", admin.site.urls),
]

"""Below wherever this is included: the demo page at the root, and tickets."""

from django.urls import path

from .views import demo, ticket

app_name = "filtered_websocket"
urlpatterns = [
    path("", demo, name="demo"),
    path("ticket/", ticket, name="ticket"),
]

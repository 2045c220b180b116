"""A site that is traced: a plain view that publishes, and one that shows the spans."""

import json

from django.core.asgi import get_asgi_application
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()


def pay(request, group):
    from filtered_websocket.publish import publish

    with trace.get_tracer("the site").start_as_current_span("pay"), transaction.atomic():
        publish("paid", group, on_commit="later" in request.GET)
    return HttpResponse("paid")


def spans(request):
    """Of this process, until now; the oldest first."""
    finished = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    return JsonResponse([json.loads(span.to_json()) for span in finished], safe=False)


urlpatterns = [path("pay/<str:group>/", pay), path("spans/", spans)]


def make_application():
    from filtered_websocket.routing import with_websockets

    http = get_asgi_application()
    # After the apps are ready.
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return with_websockets(http)

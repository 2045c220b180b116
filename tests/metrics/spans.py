"""The spans of a test, as a tree that can be read."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from filtered_websocket.metrics import traces


class Spans:
    """Keeps the spans of one tracer provider."""

    def __init__(self, **options):
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        #: Of the site's own spans.
        self.tracer = self.provider.get_tracer("the site")

    def begin(self):
        traces.begin(self.provider.get_tracer("filtered_websocket"))

    def clear(self):
        self._exporter.clear()

    @property
    def all(self):
        """In the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)

    @property
    def tree(self):
        """The name of each span, below its parent; roots, and those of parents elsewhere, first."""
        return tree(self.all)

    def named(self, name):
        return [span for span in self.all if span.name == name]

    def one(self, name):
        [span] = self.named(name)
        return span


def tree(spans):
    ids = {span.context.span_id for span in spans}
    lines = []

    def add(span, depth):
        lines.append("  " * depth + span.name)
        for other in spans:
            if other.parent is not None and other.parent.span_id == span.context.span_id:
                add(other, depth + 1)

    for span in spans:
        if span.parent is None or span.parent.span_id not in ids:
            add(span, 0)
    return lines


def linked(span):
    """The ids of the spans that ``span`` has links to."""
    return [link.context.span_id for link in span.links]


def id_of(span):
    return span.context.span_id

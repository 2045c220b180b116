"""For console_settings."""

from filtered_websocket import WebSocketMessageFilter

#: As strict as a site may be: inline scripts and styles are refused.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def strict(get_response):
    """A middleware."""

    def answer(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return answer


class Repeat(WebSocketMessageFilter):
    @classmethod
    def filter(cls, connection, data):
        raise ValueError(data.decode())

"""
Exceptions of filters whose text quotes the message that they were raised for: ``int(data)``
does. Logs and traces have their class and frames, and not that text.
"""

from collections.abc import Iterator
from typing import Any

#: What stands for such a text.
HIDDEN = "(its text quotes the message)"
#: How many characters of a message are looked for, and how many a shorter one must have.
SOUGHT, FEWEST = 64, 4
#: The attribute of an exception with what may not be shown.
QUOTED = "_fws_quoted"


def keep_secret(error: BaseException, data: Any) -> None:
    """A filter has raised ``error`` for ``data``, which no line may quote."""
    data = getattr(data, "data", data)  # of a call
    if data is None:
        return
    if isinstance(data, bytes | bytearray):
        begin = bytes(data[:SOUGHT]).strip()
        text = begin.decode("utf-8", "ignore")
    else:
        try:
            text = str(data)[:SOUGHT].strip()
        except Exception:
            return  # it has no text that could be quoted
        begin = text.encode("utf-8", "surrogatepass")
    forms = [_unescaped(form) for form in (text, repr(text)[1:-1], repr(begin)[2:-1])]
    vars(error)[QUOTED] = {form[:SOUGHT] for form in forms if len(form) >= FEWEST}


def is_quoted(text: str, secrets: set[str]) -> bool:
    """Whether ``text`` has one of :func:`secrets_of`."""
    return bool(secrets) and any(secret in _unescaped(text) for secret in secrets)


def secrets_of(error: BaseException) -> set[str]:
    """What no line about ``error`` and its causes may quote."""
    return {secret for one in causes(error) for secret in vars(one).get(QUOTED, ())}


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error``, and those that it came from, as Python prints them; each once."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)


def without_quotes(chunks: list[str], error: BaseException) -> list[str]:
    """``chunks`` of the traceback of ``error``, as the standard library formats it."""
    secrets = secrets_of(error)
    if not secrets:
        return chunks
    kinds = {type(one).__qualname__ for one in causes(error)}
    return [_without(chunk, secrets, kinds) for chunk in chunks]


def _without(chunk: str, secrets: set[str], kinds: set[str]) -> str:
    # Frames have lines of code, which no client has written.
    if chunk.startswith('  File "') or not is_quoted(chunk, secrets):
        return chunk
    name = chunk.partition(":")[0]
    return f"{name}: {HIDDEN}" if name.rpartition(".")[2] in kinds else HIDDEN


def _unescaped(text: str) -> str:
    # Whether repr escapes a quote depends on the rest of the text.
    return text.replace("\\'", "'")

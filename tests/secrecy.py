"""Where a secret might appear: databases, log lines, exception reports."""

import logging
from contextlib import contextmanager

from django.db import connection
from django.views.debug import ExceptionReporter

#: A key whose ``repr``, unlike that of a new one, hides nothing.
PLAIN_KEY = "fws_" + "Shown1Of" + "hidden-Part_" * 2 + "abcdefghijk"


def database_dump():
    """Every row of every table of the test's database, as text."""
    lines = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            lines += [f"{table} {row}" for row in cursor.fetchall()]
    return "\n".join(lines)


def report_of(call, *args, **kwargs):
    """What Django mails and shows of the exception that ``call`` raises, text and HTML."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        # The first frame is this one.
        reporter = ExceptionReporter(None, type(error), error, error.__traceback__.tb_next)
        return reporter.get_traceback_text() + reporter.get_traceback_html()
    raise AssertionError("it raised nothing")


@contextmanager
def failing_database(verb):
    """Every statement that begins with ``verb`` fails."""

    def fail(execute, sql, params, many, context):
        if sql.startswith(verb):
            raise RuntimeError(f"{verb} fails")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail):
        yield


@contextmanager
def every_log_line(caplog):
    """The log lines of all loggers and levels, with every statement and its parameters."""
    lines = []
    had = connection.force_debug_cursor
    connection.force_debug_cursor = True
    try:
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "django"):
            yield lines
    finally:
        connection.force_debug_cursor = had
        formatter = logging.Formatter("%(name)s %(message)s %(args)s")
        lines += [f"{formatter.format(record)} {record.__dict__}" for record in caplog.records]

"""The example without DEBUG, whose log is written as docs/log.md says: as JSON."""

from fws_project.settings import *  # noqa: F403
from tests.snippets import named

DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
exec(named("docs/log.md")["LOGGING as JSON"])

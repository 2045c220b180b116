"""The example behind a proxy, with the settings of docs/deployment.md."""

from fws_project.settings import *  # noqa: F403

from ..snippets import named

exec(named("docs/deployment.md")["settings behind a proxy"])

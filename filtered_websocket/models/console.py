"""The permissions of the console, which has no rows."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class NoRows(models.Manager["Console"]):
    """Finds nothing, and asks no database: ``dumpdata`` asks for rows of models without tables."""

    def get_queryset(self) -> models.QuerySet["Console"]:
        return super().get_queryset().none()


class Console(models.Model):
    """No table: it has the permissions to look at, and to act on, a running site."""

    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ()
        permissions = (
            ("view_console", "Can see connections, metrics and errors of all processes"),
            ("tee_console", "Can see the messages of connections and groups"),
            ("close_console", "Can close connections"),
            ("unsubscribe_console", "Can take groups away from connections"),
            ("publish_console", "Can publish to groups"),
        )
        verbose_name = _("live console")
        # What its page is called.
        verbose_name_plural = _("live console")

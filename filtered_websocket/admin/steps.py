"""
Rows that have a secret, which is shown once, and steps that are confirmed before they are done.

A secret is shown in the response to the POST that made it: never in the session, a message or
the history.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin


class StepsAdmin(_ModelAdmin):
    #: The view of each is ``<name>_view``, at ``<id>/<name>/``.
    steps: tuple[str, ...] = ()

    class Media:
        css = {"all": ("filtered_websocket/admin.css",)}
        js = ("filtered_websocket/admin.js",)

    def objection(self, row: Any) -> str:
        """Why no step is done with a row any more; empty: it is."""
        return ""

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                f"<path:object_id>/{step}/",
                self.admin_site.admin_view(getattr(self, f"{step}_view")),
                name=f"{self.opts.app_label}_{self.opts.model_name}_{step}",
            )
            for step in self.steps
        ]
        return own + super().get_urls()

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        # There is one button, since saving always leads to the page with the secret.
        ways = {"show_save_and_continue": False, "show_save_and_add_another": False}
        return super().add_view(request, form_url, {**ways, **(extra_context or {})})

    def confirm(
        self,
        request: HttpRequest,
        object_id: str,
        step: str,
        title: Any,
        act: Callable[[HttpRequest, Any], HttpResponse | None],
    ) -> HttpResponse:
        """Ask for confirmation; on POST do it and show its answer, or the row's page."""
        row = self.get_object(request, unquote(object_id))
        if not self.has_change_permission(request, row):
            raise PermissionDenied
        if row is None:
            raise Http404(f"no {self.opts.model_name} {object_id!r}")
        answer = None
        objection = self.objection(row)
        if objection:
            self.message_user(request, objection, messages.WARNING)
        elif request.method != "POST":
            return self.page(request, row, "confirm.html", step=step, title=title)
        else:
            with transaction.atomic(using=router.db_for_write(self.model)):
                answer = act(request, row)
        return answer or HttpResponseRedirect(self.url(row))

    def page(self, request: HttpRequest, row: Any, template: str, **context: Any) -> HttpResponse:
        """A page about one row. An error while it is rendered undoes the transaction."""
        request.current_app = self.admin_site.name
        return render(
            request,
            f"admin/filtered_websocket/{self.opts.model_name}/{template}",
            {
                **self.admin_site.each_context(request),
                "media": self.media,
                "opts": self.opts,
                "original": row,
                "row_url": self.url(row),
                "subtitle": row,
                "has_view_permission": self.has_view_permission(request, row),
                **context,
            },
        )

    def url(self, row: Any) -> str:
        """The page of a row."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=(quote(row.pk),), current_app=self.admin_site.name)

"""The console's page in Django's admin. What it shows comes by its WebSocket."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, get_script_prefix, path
from django.utils.text import capfirst

from ..conf import conf
from ..models import Console
from .actions import ALL, find_permissions, page_key

if TYPE_CHECKING:
    _ConsoleAdmin = admin.ModelAdmin[Console]
else:
    _ConsoleAdmin = admin.ModelAdmin


class ConsoleAdmin(_ConsoleAdmin):
    """One page, for who has the permission to see it: there are no rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Console | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Console | None = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(self.changelist_view), name=name)]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        permitted = find_permissions(request.user)
        where = conf.CONSOLE
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            "websocket_path": None if where is None else get_script_prefix() + where,
            "key": page_key(request.user),
            # The buttons that are offered; each action asks again.
            "permitted": " ".join(name.partition(".")[2] for name in ALL if name in permitted),
            **(extra_context or {}),
        }
        return TemplateResponse(request, "admin/filtered_websocket/console.html", context)

"""Apps of the Pusher protocol in Django's admin, for sites with ``PUSHER_APPS_IN_ADMIN``."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_variables

from ..auth.keys import Key
from ..conf import SettingError, conf
from ..models import PusherApp
from ..pusher.apps import site_apps
from .steps import StepsAdmin

if TYPE_CHECKING:
    _Form = ModelForm[PusherApp]
else:
    _Form = ModelForm


class PusherAppForm(_Form):
    """Ids and keys of ``PUSHER_APPS`` are not given again."""

    def clean_webhooks(self) -> Any:
        """An empty field, and null, are none."""
        return self.cleaned_data["webhooks"] or []

    def clean(self) -> None:
        super().clean()
        try:
            apps = site_apps()
        except SettingError as error:
            raise ValidationError(str(error)) from error
        for field, name in (("app_id", "id"), ("key", "key")):
            taken = {getattr(app, name) for app in apps}
            if self.cleaned_data.get(field) in taken:
                self.add_error(field, ValidationError(_("An app of PUSHER_APPS has it.")))


@admin.register(PusherApp)
class PusherAppAdmin(StepsAdmin):
    form = PusherAppForm
    list_display = ("name", "app_id", "key", "enabled", "client_events", "created")
    list_filter = ("enabled",)
    search_fields = ("name", "app_id", "key")
    actions = ("encrypt_selected",)
    steps = ("secret",)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return conf.PUSHER_APPS_IN_ADMIN and super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: PusherApp | None = None) -> bool:
        return conf.PUSHER_APPS_IN_ADMIN and super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return conf.PUSHER_APPS_IN_ADMIN and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: PusherApp | None = None) -> bool:
        return conf.PUSHER_APPS_IN_ADMIN and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: PusherApp | None = None) -> bool:
        return conf.PUSHER_APPS_IN_ADMIN and super().has_delete_permission(request, obj)

    def get_fields(self, request: HttpRequest, obj: PusherApp | None = None) -> tuple[str, ...]:
        # In the order of the model, also those that are read only.
        names = [one.name for one in self.opts.fields if one.editable and not one.primary_key]
        return tuple(names) if obj is None else (*names, "created")

    def get_readonly_fields(
        self, request: HttpRequest, obj: PusherApp | None = None
    ) -> tuple[str, ...]:
        # Clients and backends have the key, and groups have the id in their names.
        return () if obj is None else ("app_id", "key", "created")

    def save_model(self, request: HttpRequest, obj: PusherApp, form: Any, change: bool) -> None:
        if change:
            # Not the other fields, which may have changed meanwhile.
            obj.save(update_fields=form.changed_data)
            with suppress(ValueError):  # it is lost
                obj.encrypt_again()
        else:
            # For response_add. As an attribute of obj, receivers of post_save would see it.
            request.fws_key = obj.set_new_secret()  # type: ignore[attr-defined]
            super().save_model(request, obj, form, change)

    @admin.action(
        description=_("Encrypt secrets of selected %(verbose_name_plural)s with SECRET_KEY"),
        permissions=["change"],
    )
    def encrypt_selected(self, request: HttpRequest, queryset: QuerySet[PusherApp]) -> None:
        done = 0
        for app in queryset:
            try:
                if app.encrypt_again():
                    done += 1
                    self.log_change(request, app, "Encrypted its secret again.")
            except ValueError:
                words = _("“%s” needs a new secret: its own cannot be decrypted.")
                self.message_user(request, words % app, messages.WARNING)
        text = ngettext("%d secret was encrypted again.", "%d secrets were encrypted again.", done)
        self.message_user(request, text % done, messages.SUCCESS)

    def response_add(
        self, request: HttpRequest, obj: PusherApp, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._show_secret(request, obj, request.fws_key)  # type: ignore[attr-defined]

    def secret_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.confirm(request, object_id, "secret", _("New secret"), self._replace)

    @sensitive_variables("secret")
    def _replace(self, request: HttpRequest, app: PusherApp) -> HttpResponse:
        secret = app.set_new_secret()
        app.save(update_fields=["encrypted_secret"])
        self.log_change(request, app, "Made a new secret.")
        return self._show_secret(request, app, secret)

    @sensitive_variables()
    def _show_secret(self, request: HttpRequest, app: PusherApp, secret: Key) -> HttpResponse:
        master_key = app.encryption_master_key
        shown = {"key": secret, "master_key": master_key}
        return self.page(request, app, "secret.html", step="key", title=_("Secret"), **shown)

"""Tokens in Django's admin. A digest is never shown."""

import datetime
from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import SEARCH_VAR
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import get_script_prefix
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.timesince import timesince, timeuntil
from django.utils.timezone import localtime, now
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_variables

from ..api import control
from ..auth.keys import Key, shorten
from ..models import State, Token
from .steps import StepsAdmin

UNKNOWN = "\N{EN DASH}"


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        return State.choices

    def queryset(self, request: HttpRequest, queryset: QuerySet[Token]) -> QuerySet[Token]:
        value = self.value()
        return queryset.filter(State(value).where()) if value in State.values else queryset


@admin.register(Token)
class TokenAdmin(StepsAdmin):
    list_display = ("name", "prefix", "user", "state", "connections", "expires", "used")
    list_filter = (StateFilter,)
    list_select_related = ("user",)
    # A list of all users to choose from could be very long.
    raw_id_fields = ("user",)
    actions = ("revoke_selected",)

    _written = (
        "name",
        "user",
        "group",
        "can_publish",
        "can_subscribe",
        "can_call_api",
        "expires_at",
    )
    _shown = ("prefix", "state", "connections", "created", "last_used", "revoked_at")

    steps = ("rotate", "revoke")

    # Fields

    def get_fields(self, request: HttpRequest, obj: Token | None = None) -> tuple[str, ...]:
        return self._written if obj is None else (*self._written, *self._shown)

    def get_readonly_fields(
        self, request: HttpRequest, obj: Token | None = None
    ) -> tuple[str, ...]:
        # Otherwise the client that has the key would silently become another user.
        return () if obj is None else ("user", *self._shown)

    @admin.display(description=_("state"))
    def state(self, token: Token) -> Any:
        kind, label = token.state.value, token.state.label
        if token.state is State.ACTIVE and token.flaw:
            kind, label = "flawed", _("user deactivated")
        return format_html('<span class="fws-state fws-{}">{}</span>', kind, label)

    # Short, so that all columns fit beside the filter; the whole date is in the tooltip.
    @admin.display(description=_("expires"), ordering="expires_at")
    def expires(self, token: Token) -> Any:
        return _moment(token.expires_at)

    @admin.display(description=_("last used"), ordering="last_used")
    def used(self, token: Token) -> Any:
        return _moment(token.last_used)

    @admin.display(description=_("connections"))
    def connections(self, token: Token) -> Any:
        if "connections" not in vars(token):
            _count([token])
        return vars(token)["connections"]

    # The list

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return ("name", "prefix__startswith", f"user__{get_user_model().USERNAME_FIELD}")

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        # ?digest__startswith= would reveal a digest, letter by letter.
        return not lookup.startswith("digest") and super().lookup_allowed(lookup, value, request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        searched = request.GET.get(SEARCH_VAR, "")
        if shorten(searched) != searched:
            # A whole key must not stay in the page or its address.
            query = request.GET.copy()
            query[SEARCH_VAR] = shorten(searched)
            return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")
        response = super().changelist_view(request, extra_context)
        changelist = getattr(response, "context_data", {}).get("cl")
        if changelist is not None:
            _count(changelist.result_list)
        return response

    @admin.action(description=_("Revoke selected %(verbose_name_plural)s"), permissions=["change"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        tokens = list(queryset.filter(revoked_at=None))
        for token in tokens:
            self._revoke(request, token)
        self.message_user(
            request,
            ngettext("%d token was revoked.", "%d tokens were revoked.", len(tokens)) % len(tokens),
            messages.SUCCESS,
        )

    # Creating, rotating, revoking

    def objection(self, row: Token) -> str:
        return "" if row.revoked_at is None else _("The token “%s” is revoked already.") % row

    def save_model(
        self, request: HttpRequest, obj: Token, form: "ModelForm[Token]", change: bool
    ) -> None:
        if change:
            # Not the other fields, which may have changed meanwhile: revoked stays revoked.
            obj.save(update_fields=form.changed_data)
        else:
            # For response_add. As an attribute of obj, receivers of post_save would see it.
            request.fws_key = obj.set_new_key()  # type: ignore[attr-defined]
            super().save_model(request, obj, form, change)

    def response_add(
        self, request: HttpRequest, obj: Token, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._show_key(request, obj, request.fws_key)  # type: ignore[attr-defined]

    def rotate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.confirm(request, object_id, "rotate", _("Rotate key"), self._rotate)

    def revoke_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self.confirm(request, object_id, "revoke", _("Revoke"), self._revoke)

    @sensitive_variables("key")
    def _rotate(self, request: HttpRequest, token: Token) -> HttpResponse:
        key = token.rotate()
        self.log_change(request, token, "Rotated the key.")
        return self._show_key(request, token, key)

    def _revoke(self, request: HttpRequest, token: Token) -> None:
        token.revoke()
        self.log_change(request, token, "Revoked.")

    @sensitive_variables()
    def _show_key(self, request: HttpRequest, token: Token, key: Key) -> HttpResponse:
        scheme = "wss" if request.is_secure() else "ws"
        url = f"{scheme}://{request.get_host()}{get_script_prefix()}"
        return self.page(
            request, token, "key.html", step="key", title=_("Key"), key=key, websocket_url=url
        )


def _moment(value: datetime.datetime | None) -> Any:
    """How far away it is, in one unit; None is a dash, as in any column of the admin."""
    if value is None:
        return None
    if value > now():
        words = _("in %s") % timeuntil(value, depth=1)
    else:
        words = _("%s ago") % timesince(value, depth=1)
    whole = date_format(localtime(value), "DATETIME_FORMAT")
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), whole, words)


def _count(tokens: Iterable[Token]) -> None:
    """Set on each token the number of its connections, as shown in the list."""
    found = control.count_connections([token.pk for token in tokens])
    for token in tokens:
        vars(token)["connections"] = UNKNOWN if found is None else found.get(token.pk, 0)

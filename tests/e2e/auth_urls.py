"""The example's pages, and one that ends the access of connections."""

import json

from django.contrib.auth.models import User
from django.db import connection
from django.http import JsonResponse
from django.urls import path
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from filtered_websocket.disconnect import disconnect_token, disconnect_user
from filtered_websocket.models import Token
from fws_project.urls import urlpatterns as example


def make_user(name):
    user = User.objects.create_user(name, password=name, is_staff=True)
    return {"user": user.pk}


def make_token(user=None, seconds=None, **fields):
    if seconds is not None:
        fields["expires_at"] = timezone.now() + timezone.timedelta(seconds=seconds)
    token, key = Token.objects.create_key(name="of a test", user_id=user, **fields)
    return {"token": token.pk, "key": key}


def revoke(token):
    Token.objects.get(pk=token).revoke()


def rotate(token):
    Token.objects.get(pk=token).rotate()


def delete_token(token):
    Token.objects.filter(pk=token).delete()


def forbid_publishing(token):
    record = Token.objects.get(pk=token)
    record.can_publish = False
    record.save()


def deactivate(user):
    record = User.objects.get(pk=user)
    record.is_active = False
    record.save()


def delete_user(user):
    User.objects.get(pk=user).delete()


def change_password(user):
    record = User.objects.get(pk=user)
    record.set_password("another")
    record.save()


def kick_user(user):
    disconnect_user(user)


def kick_token(token):
    disconnect_token(token)


def update_token(token):
    """Changes rows without a signal."""
    Token.objects.filter(pk=token).update(revoked_at=timezone.now())


def raw_sql(user):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE auth_user SET is_active = 0 WHERE id = %s", [user])


def delete_sessions(user):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_session")


ACTIONS = (
    *(make_user, make_token, revoke, rotate, delete_token, forbid_publishing, deactivate),
    *(delete_user, change_password, kick_user, kick_token, update_token, raw_sql, delete_sessions),
)


@csrf_exempt
def do(request, action):
    [call] = [call for call in ACTIONS if call.__name__ == action]
    return JsonResponse(call(**json.loads(request.body)) or {})


urlpatterns = [*example, path("do/<str:action>/", do)]

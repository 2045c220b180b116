"""The pages of the tests of access, and those that change who may be in which group."""

import json

from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from filtered_websocket.disconnect import subscribe, unsubscribe
from filtered_websocket.publish import publish, publish_to_user

from . import auth_urls

#: How names of Django's groups begin of which users are told.
SAVED = "saved:"


def make_room(name, user):
    room = Group.objects.create(name=name)
    room.user_set.add(user)
    return {"room": room.pk}


def throw_out(user):
    record = User.objects.get(pk=user)
    record.groups.clear()
    record.user_permissions.clear()


def make_staff(user):
    User.objects.get(pk=user).user_permissions.add(Permission.objects.get(codename="view_user"))


def order_subscribe(user, group):
    subscribe(user, group)


def order_unsubscribe(user, group):
    unsubscribe(user, group)


def say(group, text):
    publish({"said": text}, group)


def notify(user, text):
    with transaction.atomic():
        publish_to_user(user, {"told": text}, on_commit=True)


def save(user, text):
    """Has what is told by a signal."""
    Group.objects.create(name=f"{SAVED}{user}:{text}")


@receiver(post_save, sender=Group)
def tell_of_it(sender, instance, **kwargs):
    if instance.name.startswith(SAVED):
        _, user, text = instance.name.split(":")
        publish_to_user(user, {"told": text}, on_commit=True)


ACTIONS = (
    *auth_urls.ACTIONS,
    *(make_room, throw_out, make_staff, order_subscribe, order_unsubscribe, say, notify, save),
)


@csrf_exempt
def do(request, action):
    [call] = [call for call in ACTIONS if call.__name__ == action]
    return JsonResponse(call(**json.loads(request.body)) or {})


urlpatterns = [path("do/<str:action>/", do), *auth_urls.urlpatterns]

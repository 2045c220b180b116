"""Group rules that ask in every way; who is in one of Django's groups is a member of a room."""

from filtered_websocket.groups import group, personal


def is_member(connection, room):
    return connection.user.groups.filter(pk=room).exists()


is_member.blocking = True


async def is_member_async(connection, room):
    return await connection.user.groups.filter(pk=room).aexists()


def is_named(connection, name):
    return connection.user.username == name


grouppatterns = [
    group("news"),
    group("open:<int:number>"),
    group("closed", join=False),
    group("room:<int:room>", join=is_member, publish=is_member, recheck=True),
    group("async:<int:room>", join=is_member_async, recheck=True),
    group("of:<str:name>", join=is_named),
    group("staff", join="auth.view_user", recheck=True),
    personal(),
]

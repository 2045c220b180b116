"""Whether identities are still valid."""

import datetime
from dataclasses import replace
from importlib import import_module

import pytest
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import AnonymousUser
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.utils import timezone

from filtered_websocket.auth import validity
from filtered_websocket.auth.validity import (
    find_invalid,
    is_same_password,
    is_token,
    is_user,
    password_hash,
)
from filtered_websocket.models import Token
from filtered_websocket.types import Identity

pytestmark = pytest.mark.django_db
User = get_user_model()


@pytest.fixture
def ann():
    return User.objects.create_user("ann", password="secret")


@pytest.fixture
def token(ann):
    return Token.objects.create_key(name="bot", user=ann)[0]


def session_of(user, engine="django.contrib.sessions.backends.db"):
    session = import_module(engine).SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return session


def identity_of(user, session=None, token=None):
    return Identity(
        user=user,
        token=token,
        session_key=session and session.session_key,
        session_hash=password_hash(user),
    )


def flaw(identity):
    [(words, _)] = find_invalid([identity])
    return words


def test_nobody_in_particular_holds_without_a_query(django_assert_num_queries):
    made_up = Identity(user=object(), token=object())
    with django_assert_num_queries(0):
        assert find_invalid([]) == []
        assert find_invalid([Identity(), made_up, Identity(user=AnonymousUser())]) == [
            ("", Identity()),
            ("", made_up),
            ("", Identity(user=AnonymousUser())),
        ]


def test_a_user_that_is_not_of_this_model_is_no_user(ann):
    class Stranger:
        pk = 1
        is_active = False

    assert is_user(ann) and not is_user(Stranger()) and not is_user(User())
    assert not is_user(None) and not is_user(AnonymousUser())
    assert flaw(Identity(user=Stranger())) == ""


def test_without_the_app_nothing_is_a_token_of_ours(token, settings):
    assert is_token(token) and not is_token("fws_")
    settings.INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
    assert not is_token(token)


def test_many_are_asked_about_in_three_queries(django_assert_num_queries):
    identities = []
    for n in range(20):
        user = User.objects.create_user(f"user {n}")
        token, _ = Token.objects.create_key(name=str(n), user=user)
        identities.append(identity_of(user, session_of(user), token))
    with django_assert_num_queries(3):
        assert [words for words, _ in find_invalid(identities * 2)] == [""] * 40


def test_the_hash_of_a_password_is_made_once_for_all_connections_of_a_user(ann, monkeypatch):
    bob = User.objects.create_user("bob", password="x")
    identities = [identity_of(ann), identity_of(bob), identity_of(bob)] * 5
    made, gave_way = [], []
    monkeypatch.setattr(
        validity, "password_hash", lambda user: made.append(user.pk) or password_hash(user)
    )
    monkeypatch.setattr(validity.time, "sleep", gave_way.append)
    assert [words for words, _ in find_invalid(identities)] == [""] * 15
    assert made == [ann.pk, bob.pk] and gave_way == [0, 0]


@pytest.mark.repeats
def test_more_than_500_take_a_query_for_each_500(ann, django_assert_num_queries):
    users = User.objects.bulk_create(User(username=str(n), password="x") for n in range(1001))
    gone = users[700]
    User.objects.filter(pk=gone.pk).delete()
    store = import_module("django.contrib.sessions.backends.db").SessionStore
    model = store.get_model_class()
    later = timezone.now() + datetime.timedelta(days=1)
    model.objects.bulk_create(
        model(session_key=f"key{n}", session_data="", expire_date=later) for n in range(1001)
    )
    model.objects.filter(session_key="key900").delete()
    identities = [Identity(user=user, session_key=f"key{n}") for n, user in enumerate(users)]
    with django_assert_num_queries(6):
        verdicts = [words for words, _ in find_invalid(identities)]
    expected = [""] * 1001
    expected[700], expected[900] = "user deleted", "session ended"
    assert verdicts == expected


def test_each_identity_depends_on_its_own_user_and_token(ann, token):
    bob = User.objects.create_user("bob")
    identities = [identity_of(ann), identity_of(bob), identity_of(ann, token=token)]
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert [words for words, _ in find_invalid(identities)] == ["", "user deactivated", ""]


def test_a_user_who_is_deleted_deactivated_or_has_another_password_ends(ann):
    identity = identity_of(ann)
    assert flaw(identity) == ""
    changed = User.objects.get()
    changed.set_password("other")
    changed.save()
    assert flaw(identity) == "password changed"
    assert flaw(replace(identity, session_hash=None)) == ""
    User.objects.update(is_active=False)
    assert flaw(identity) == "user deactivated"
    User.objects.all().delete()
    assert flaw(identity) == "user deleted"


ENGINES = [
    f"django.contrib.sessions.backends.{name}"
    for name in ("db", "cached_db", "cache", "file", "signed_cookies")
]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_session_is_valid_with_the_hash_that_it_has_now(
    ann, engine, settings, django_assert_num_queries
):
    settings.SESSION_ENGINE = engine
    session = session_of(ann, engine)
    identity = identity_of(ann, session)
    ann.set_password("other")
    ann.save()
    is_row, is_cookie = engine.endswith("db"), engine.endswith("signed_cookies")
    # What a browser has in its cookie now, nobody else knows.
    renewed = "session renewed"
    with django_assert_num_queries(3 if is_row else 1):
        assert flaw(identity) == (renewed if is_cookie else "password changed")
    session[HASH_SESSION_KEY] = password_hash(ann)
    session.save()
    [(words, fresh)] = find_invalid([identity])
    assert words == (renewed if is_cookie else "")
    assert is_cookie or fresh.session_hash == password_hash(ann)
    assert is_cookie or flaw(fresh) == ""
    session.delete(identity.session_key)
    assert flaw(identity) == renewed
    session = session_of(ann, engine)
    session.clear()
    session.save()
    assert is_cookie or flaw(replace(identity, session_key=session.session_key)) in (
        "password changed",
        "session ended",
    )


def test_the_secret_key_may_be_rotated_by_way_of_the_fallbacks(ann, settings):
    identity = identity_of(ann)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "new"
    assert flaw(identity) == "password changed"
    settings.SECRET_KEY_FALLBACKS = ["older still", old]
    assert flaw(identity) == ""
    changed = User.objects.get()
    changed.set_password("other")
    changed.save()
    assert flaw(identity) == "password changed"


def test_a_user_without_a_session_hash_has_no_password_to_change():
    assert password_hash(object()) is None
    assert is_same_password(object(), "x") and is_same_password(object(), None)


def test_a_blank_hash_is_nobodys_password(ann):
    assert not is_same_password(ann, "")


def change(**fields):
    return lambda token: Token.objects.filter(pk=token.pk).update(**fields)


def give_away(token):
    change(user=User.objects.create_user("bob"))(token)


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (change(name="other", last_used=timezone.now()), ""),
        (change(expires_at=timezone.now() + datetime.timedelta(hours=1)), ""),
        (lambda token: Token.objects.all().delete(), "token deleted"),
        (lambda token: Token.objects.get().rotate(), "token rotated"),
        (lambda token: Token.objects.get().revoke(), "token revoked"),
        (change(expires_at=timezone.now()), "token expired"),
        (change(group="other"), "token changed"),
        (change(can_publish=False), "token changed"),
        (change(can_subscribe=False), "token changed"),
        (give_away, "token changed"),
        (change(user=None), "token changed"),
    ],
)
def test_a_token_that_grants_less_or_something_else_ends(
    ann, token, happens, words, django_assert_max_num_queries
):
    identity = identity_of(ann, token=token)
    happens(token)
    with django_assert_max_num_queries(2):
        assert flaw(identity) == words


def test_a_token_of_nobody_ends_when_it_is_given_to_somebody(ann, django_assert_num_queries):
    token, _ = Token.objects.create_key(name="sensor")
    identity = Identity(user=AnonymousUser(), token=token)
    assert flaw(identity) == ""
    change(user=ann)(token)
    with django_assert_num_queries(1):
        assert flaw(identity) == "token changed"


def test_what_holds_comes_back_with_its_token_as_it_is_now(ann, token, django_assert_num_queries):
    later = timezone.now() + datetime.timedelta(hours=1)
    change(expires_at=later, name="new")(token)
    [(_, fresh)] = find_invalid([identity_of(ann, token=token)])
    assert fresh.user is ann and fresh.token is not token
    with django_assert_num_queries(0):
        assert (fresh.token.expires_at, fresh.token.name, fresh.token.user) == (later, "new", ann)


def test_a_site_may_have_somebody_else_use_a_users_token(ann, token):
    bob = User.objects.create_user("bob")
    for who in (bob, AnonymousUser()):
        [(words, fresh)] = find_invalid([identity_of(who, token=token)])
        assert (words, fresh.user, fresh.token.user) == ("", who, ann)
        assert flaw(fresh) == ""
    User.objects.filter(pk=ann.pk).update(is_active=False)
    assert flaw(identity_of(bob, token=token)) == "user deactivated"


ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.fixture(params=ENGINES)
def engine(request, settings, tmp_path):
    settings.SESSION_FILE_PATH = str(tmp_path)
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{request.param}"
    yield settings.SESSION_ENGINE
    caches["default"].clear()


def test_a_session_lives_in_every_engine_until_it_is_flushed(ann, engine):
    session = session_of(ann, engine)
    identity = identity_of(ann, session)
    assert flaw(identity) == ""
    session.flush()
    # What lives in a cookie ends where the browser forgets it, or by its age.
    ends = not engine.endswith("signed_cookies")
    assert flaw(identity) == ("session ended" if ends else "")
    assert flaw(replace(identity, session_key="a" * 32)) == "session ended"


def test_a_session_that_nobody_is_logged_in_to_has_ended(ann, engine):
    session = import_module(engine).SessionStore()
    session["basket"] = 3
    session.save()
    # Rows are not read one by one: logging out takes them away.
    is_row = hasattr(session, "get_model_class")
    assert flaw(identity_of(ann, session)) == ("" if is_row else "session ended")


def test_an_expired_session_has_ended(ann):
    session = session_of(ann)
    session.set_expiry(-1)
    session.save()
    assert flaw(identity_of(ann, session)) == "session ended"


def test_an_expired_cookie_has_ended(ann, settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    identity = identity_of(ann, session_of(ann, settings.SESSION_ENGINE))
    settings.SESSION_COOKIE_AGE = -1
    assert flaw(identity) == "session ended"


class Broken(LocMemCache):
    """A cache that does not answer."""

    is_down = False

    def get(self, *args, **kwargs):
        if self.is_down:
            raise ConnectionError("the cache is down")
        return super().get(*args, **kwargs)

    def has_key(self, *args, **kwargs):
        return self.get(*args, **kwargs) is not None


def test_a_cache_that_does_not_answer_ends_no_session(ann, settings, monkeypatch):
    settings.CACHES = {"default": {"BACKEND": f"{__name__}.Broken"}}
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
    identity = identity_of(ann, session_of(ann, settings.SESSION_ENGINE))
    assert flaw(identity) == ""
    monkeypatch.setattr(Broken, "is_down", True)
    with pytest.raises(ConnectionError):
        find_invalid([identity])


class Replicated:
    """Reads go to a database that does not exist."""

    def db_for_read(self, model, **hints):
        return "replica"


def test_the_database_that_is_written_to_is_asked(ann, token, settings):
    identity = identity_of(ann, session_of(ann), token)
    settings.DATABASE_ROUTERS = [Replicated()]
    assert flaw(identity) == ""


def test_a_chunk_fits_into_one_query_of_every_database():
    assert validity.CHUNK < 999

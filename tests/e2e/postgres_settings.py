"""The site of tests/e2e/auth_site.py on PostgreSQL, connected to as DATABASE (JSON) says."""

import json
import os

from .auth_site import *  # noqa: F403

DATABASES = {
    "default": {"ENGINE": "django.db.backends.postgresql", **json.loads(os.environ["DATABASE"])}
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

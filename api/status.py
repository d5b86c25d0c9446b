"""`deskbase status`: where everything is, and the keys to it.

In charge of what is shown and how it is written. It starts nothing and asks nobody but the data folder.
"""

import re
from collections.abc import Mapping

import msgspec

from api.database import embedded_server
from api.failures import Failure
from api.instance import running
from api.keys import api_keys, load_secrets
from api.settings import Settings


def read_status(settings: Settings) -> tuple[dict[str, str], str]:
    """Return what there is to know, and what is wrong. Raises Failure on an unused data folder."""
    secrets = load_secrets(settings.data_dir)
    if secrets is None:
        raise Failure(f"{settings.data_dir} holds no Deskbase yet; start it with `deskbase up`.")
    found = running(settings.data_dir)
    api_url = (found and found.api_url) or settings.api_url
    jwt_secret = settings.jwt_secret or secrets.jwt_secret
    keys = api_keys(jwt_secret)
    values = {
        "API_URL": api_url,
        "REST_URL": f"{api_url}/rest/v1",
        "FUNCTIONS_URL": f"{api_url}/functions/v1",
        "POSTGREST_URL": found.postgrest_url if found else "",
        "DB_URL": settings.database_url or embedded_server(settings, secrets).url(),
        "ANON_KEY": keys.anon,
        "SERVICE_ROLE_KEY": keys.service_role,
        "PUBLISHABLE_KEY": keys.publishable,
        "SECRET_KEY": keys.secret,
        "JWT_SECRET": jwt_secret,
        "ADMIN_EMAIL": settings.admin_email,
        "DATA_DIR": str(settings.data_dir),
    }
    if found is None:
        return values, f"Deskbase is not running on {settings.data_dir}; start it with `deskbase up`."
    return values, "" if found.ready else f"Deskbase is starting on {settings.data_dir}; it is not ready yet."


def as_env(values: Mapping[str, str]) -> str:
    """Write `NAME="value"` lines that a shell reads back unchanged."""
    return "\n".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def as_json(values: Mapping[str, str]) -> str:
    """Write one JSON object."""
    return msgspec.json.format(msgspec.json.encode(values)).decode()


def as_text(values: Mapping[str, str]) -> str:
    """Write aligned lines for people."""
    return "\n".join(f"{name.replace('_', ' ').capitalize():>18}: {value}" for name, value in values.items())


def _escaped(value: str) -> str:
    return re.sub(r'(["\\$`])', r"\\\1", value)

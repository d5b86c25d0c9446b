import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from api.keys import KeysError, api_keys, authenticator_password, jwks, load_or_create_secrets, load_secrets

SECRET = "a secret that is long enough for HS256"


def test_secrets_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    assert load_secrets(tmp_path) is None
    made = load_or_create_secrets(tmp_path)
    assert load_or_create_secrets(tmp_path) == made == load_secrets(tmp_path)
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_two_data_folders_have_different_secrets(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (load_or_create_secrets(folder) for folder in folders)
    assert first.jwt_secret != second.jwt_secret
    assert first.admin_password != second.admin_password
    assert first.postgres_password != second.postgres_password


def test_a_damaged_file_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}")
    with pytest.raises(KeysError, match=r"secrets\.json is damaged"):
        load_or_create_secrets(tmp_path)


def test_the_same_secret_gives_the_same_keys_and_another_one_others() -> None:
    assert api_keys(SECRET) == api_keys(SECRET)
    ours, theirs = api_keys(SECRET), api_keys(SECRET + "!")
    assert not {ours.anon, ours.service_role, ours.publishable, ours.secret} & {
        theirs.anon,
        theirs.service_role,
        theirs.publishable,
        theirs.secret,
    }
    assert authenticator_password(SECRET) != authenticator_password(SECRET + "!")


@pytest.mark.parametrize("role", ["anon", "service_role"])
def test_a_role_key_is_a_jwt_of_that_role(role: str) -> None:
    claims = jwt.decode(getattr(api_keys(SECRET), role), SECRET, algorithms=["HS256"])
    assert (claims["iss"], claims["role"]) == ("supabase", role)


def test_short_keys_look_like_supabases() -> None:
    keys = api_keys(SECRET)
    for key, prefix in ((keys.publishable, "sb_publishable_"), (keys.secret, "sb_secret_")):
        assert key.startswith(prefix)
        assert len(key) == len(prefix) + 22 + 1 + 8
    assert keys.publishable.removeprefix("sb_publishable_") != keys.secret.removeprefix("sb_secret_")


def test_the_key_set_holds_the_secret_whatever_it_begins_with() -> None:
    (key,) = json.loads(jwks("@" + SECRET))["keys"]
    assert base64.urlsafe_b64decode(key["k"] + "==").decode() == "@" + SECRET
    assert (key["kty"], key["alg"]) == ("oct", "HS256")


def test_many_who_start_at_once_agree_on_the_secrets(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_or_create_secrets(tmp_path), range(8)))
    assert len({secrets.jwt_secret for secrets in found}) == 1

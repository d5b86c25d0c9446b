import base64
import json
import stat
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from api.keys import (
    KeysError,
    SigningKey,
    api_keys,
    authenticator_password,
    jwks,
    load_or_create_secrets,
    load_secrets,
    signing_key,
)
from tests.desk import PROJECT, Desk

SECRET = "a secret that is long enough for HS256"
SUPABASE = PROJECT / "node_modules" / ".bin" / "supabase"


def private_jwk(**changes: Any) -> str:
    jwk = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True) | changes
    return json.dumps({name: value for name, value in jwk.items() if value is not None})


def assert_signs(key: SigningKey) -> None:
    public = jwt.PyJWK(key.public_jwk)
    assert jwt.decode(key.sign({"sub": "x"}), public) == {"sub": "x"}


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


def test_signing_key_is_made_when_it_is_first_wanted_and_kept(tmp_path: Path) -> None:
    before = load_or_create_secrets(tmp_path)
    assert "jwt_signing_key" not in (tmp_path / "secrets.json").read_text()
    assert signing_key("", tmp_path) is None
    key = signing_key("ES256", tmp_path)
    again = signing_key("ES256", tmp_path)
    assert key
    assert again
    assert_signs(key)
    assert key.public_jwk == again.public_jwk
    after = load_or_create_secrets(tmp_path)
    assert after.jwt_signing_key == key.private_jwk
    assert (after.jwt_secret, after.admin_password) == (before.jwt_secret, before.admin_password)
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_many_who_start_at_once_agree_on_the_signing_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: signing_key("ES256", tmp_path), range(8)))
    assert len({key.kid for key in found if key}) == 1


def test_a_damaged_signing_key_is_refused_rather_than_replaced(tmp_path: Path) -> None:
    kept = json.loads(private_jwk(d="AAAA"))
    load_or_create_secrets(tmp_path)
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"jwt_signing_key": json.dumps(kept)}))
    with pytest.raises(KeysError, match=r"secrets\.json is damaged: jwt_signing_key") as error:
        signing_key("ES256", tmp_path)
    assert kept["x"] not in str(error.value)


def test_signing_key_that_is_given_is_not_kept(tmp_path: Path) -> None:
    key = signing_key(private_jwk(kid="mine", alg="ES256", use="sig", key_ops=["sign"]), tmp_path)
    assert key
    assert_signs(key)
    assert (key.kid, key.public_jwk["kid"]) == ("mine", "mine")
    assert list(tmp_path.iterdir()) == []


def test_signing_key_without_a_name_is_named_by_its_thumbprint() -> None:
    # The key of RFC 7517, appendix A.2; its thumbprint as another library computes it.
    key = SigningKey(
        '{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",'
        '"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}'
    )
    assert key.kid == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_public_half_tells_nothing_of_the_private_one() -> None:
    key = SigningKey(private_jwk(kid="k"))
    assert set(key.public_jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use", "key_ops", "ext"}
    assert (key.public_jwk["key_ops"], key.public_jwk["ext"]) == (["verify"], True)
    secret = json.loads(key.private_jwk)["d"]
    assert secret not in jwks(SECRET, key)
    assert secret not in repr(key)
    assert [each["kty"] for each in json.loads(jwks(SECRET, key))["keys"]] == ["oct", "EC"]


@pytest.mark.parametrize(
    "text",
    [
        "RS256",
        "",
        "[]",
        "{}",
        json.dumps({"kty": "oct", "k": "c2VjcmV0"}),
        private_jwk(d=None),
        private_jwk(d="AAAA"),
        private_jwk(d="not base64url!"),
        private_jwk(x="AAAA"),
        private_jwk(x=json.loads(private_jwk())["x"]),
        private_jwk(d=json.loads(private_jwk())["d"]),
        private_jwk(crv="P-384"),
        private_jwk(alg="ES384"),
        private_jwk(use="enc"),
        private_jwk(kid=5),
        ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=range(16),
)
def test_anything_but_a_private_key_on_p256_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a private JWK of an EC key on P-256$") as error:
        SigningKey(text)
    assert error.value.__suppress_context__


@pytest.mark.skipif(not SUPABASE.exists(), reason="the Supabase command line is not installed")
def test_signing_key_of_the_supabase_command_line_is_one(tmp_path: Path) -> None:
    made = subprocess.run(
        [SUPABASE, "gen", "signing-key", "--algorithm", "ES256"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    key = SigningKey(made.stdout)
    assert_signs(key)
    assert key.kid == json.loads(made.stdout)["kid"]


def test_desk_with_a_signing_key_accepts_tokens_of_both_kinds(another_desk: Callable[..., Desk]) -> None:
    desk = another_desk(DESKBASE_JWT_SIGNING_KEY="ES256")
    key = signing_key("ES256", desk.data_dir)
    assert key
    member = desk.member("agent", desk.organization())
    by_secret = desk.jwt(member)
    claims = jwt.decode(by_secret, options={"verify_signature": False})
    stranger = SigningKey(private_jwk(kid=key.kid))
    for url in (desk.postgrest_url, desk.rest_url):
        for token, status in (
            (by_secret, 200),
            (key.sign(claims), 200),
            (key.sign(claims | {"exp": int(time.time()) - 3600}), 401),
            (stranger.sign(claims), 401),
        ):
            answer = httpx.get(f"{url}/organizations?select=id", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status, (url, answer.text)
            if status == 200:
                assert answer.json() == [{"id": member.organization_id}]
    told = desk.output() + desk.run("status").stdout
    told += "".join(path.read_text() for path in (desk.data_dir / "logs").iterdir())
    assert json.loads(key.private_jwk)["d"] not in told

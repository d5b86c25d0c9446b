import re
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from api.settings import Issuer, Limit, Settings, SettingsError, variables
from tests.desk import PROJECT

TWO_KEY_SETS = (
    '[{"issuer": "i", "audience": "a", "jwks_url": "https://i/keys"},'
    ' {"issuer": "i", "audience": "b", "jwks_url": "https://i/others"}]'
)


def load(**environ: str) -> Settings:
    return Settings.load(environ, None)


def test_nothing_set_gives_the_documented_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.data_dir == tmp_path / ".deskbase"
    assert (settings.database_url, settings.db_port, settings.embedded_postgres) == ("", None, 18)
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.admin_email == "admin@example.com"
    assert not settings.autoconfirm
    assert (settings.jwt_signing_key, settings.jwt_expiry, settings.redirect_urls) == ("", 3600, ())
    assert (dict(settings.limits), settings.issuers, settings.allow_private_targets) == ({}, (), ())


def test_environment_outranks_dotenv_and_dotenv_the_default(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("DESKBASE_PORT=9000\nDESKBASE_WORKERS=3\n")
    settings = Settings.load({"DESKBASE_PORT": "9001"}, dotenv)
    assert (settings.port, settings.workers) == (9001, 3)


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("DESKBASE_PORT=9000\n")
    assert Settings.load({"DESKBASE_PORT": ""}, dotenv).port == 9000


def test_dotenv_understands_comments_quotes_and_export(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# a comment\n\n"
        "export DESKBASE_HOST = 0.0.0.0\n"
        'DESKBASE_ADMIN_PASSWORD="with # and spaces " # why\n'
        "DESKBASE_ADMIN_EMAIL=me@example.com # mine\n"
        """DESKBASE_LIMITS='{"rest": {"user": "5/minute"}}'\n"""
    )
    settings = Settings.load({}, dotenv)
    assert settings.host == "0.0.0.0"
    assert settings.admin_password == "with # and spaces "
    assert settings.admin_email == "me@example.com"
    assert settings.limits == {"rest": {"user": Limit(5, 60)}}


def test_a_line_of_dotenv_that_is_none_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("\nDESKBASE_PORT\n")
    with pytest.raises(SettingsError, match=r"^Line 2 of .*\.env is not of the form NAME=value\.$"):
        Settings.load({}, dotenv)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DESKBASE_PORT", "eighty"),
        ("DESKBASE_PORT", "0"),
        ("DESKBASE_PORT", "65536"),
        ("DESKBASE_DB_PORT", "-1"),
        ("DESKBASE_WORKERS", "0"),
        ("DESKBASE_WORKERS", "²"),
        ("DESKBASE_AUTOCONFIRM", "perhaps"),
        ("DESKBASE_EMBEDDED_POSTGRES", "17"),
        ("DESKBASE_DATABASE_URL", "mysql://localhost/x"),
        ("DESKBASE_DATABASE_URL", "localhost"),
        ("DESKBASE_JWT_SECRET", "short"),
        ("DESKBASE_JWT_SIGNING_KEY", "HS256"),
        ("DESKBASE_JWT_SIGNING_KEY", '{"kty": "oct", "k": "c2VjcmV0"}'),
        ("DESKBASE_JWT_EXPIRY", "119"),
        ("DESKBASE_JWT_EXPIRY", "604801"),
        ("DESKBASE_JWT_EXPIRY", "1h"),
        ("DESKBASE_ADMIN_EMAIL", "nobody"),
        ("DESKBASE_SMTP_URL", "http://mail"),
        ("DESKBASE_PUBLIC_URL", "desk.example.com"),
        ("DESKBASE_LIMITS", "not json"),
        ("DESKBASE_LIMITS", '{"rest": "1/minute"}'),
        ("DESKBASE_LIMITS", '{"rest": {"user": "1/fortnight"}}'),
        ("DESKBASE_LIMITS", '{"rest": {"user": "0/minute"}}'),
        ("DESKBASE_LIMITS", '{"rest": {"users": "1/minute"}}'),
        ("DESKBASE_ALLOW_PRIVATE_TARGETS", "10.0.0.0/33"),
        ("DESKBASE_REDIRECT_URLS", "app.example.com"),
        ("DESKBASE_REDIRECT_URLS", "*"),
        ("DESKBASE_REDIRECT_URLS", "https://*"),
        ("DESKBASE_REDIRECT_URLS", "https://app.example.com*"),
        ("DESKBASE_REDIRECT_URLS", "https://*.example.com/"),
        ("DESKBASE_REDIRECT_URLS", "https://app.example.com/*/back"),
        ("DESKBASE_REDIRECT_URLS", "https://app.example.com@evil.example/"),
        ("DESKBASE_REDIRECT_URLS", "https://app.example.com/, /back"),
        ("DESKBASE_ISSUERS", '[{"issuer": "x"}]'),
        ("DESKBASE_ISSUERS", '[{"issuer": "", "audience": "a", "jwks_url": "https://i/keys"}]'),
        ("DESKBASE_ISSUERS", '[{"issuer": "i", "audience": "", "jwks_url": "https://i/keys"}]'),
        ("DESKBASE_ISSUERS", '[{"issuer": "i", "audience": "a", "jwks_url": "file:///keys"}]'),
        ("DESKBASE_ISSUERS", TWO_KEY_SETS),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_variables_name(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name} must be .*\.$"):
        load(**{name: text})


def test_limits_override_a_contracts_own_one_by_one() -> None:
    settings = load(
        DESKBASE_LIMITS='{"support-desk": {"anonymous": "100000/hour"}, "rest": {"user": "2/day"}}'
    )
    documented = {"user": Limit(1000, 3600), "anonymous": Limit(100, 3600)}
    assert settings.limits_of("support-desk", documented) == {
        "user": Limit(1000, 3600),
        "anonymous": Limit(100000, 3600),
    }
    assert settings.limits_of("rest", {}) == {"user": Limit(2, 86400)}
    assert settings.limits_of("helpdesk", documented) == documented


def test_lists_are_read() -> None:
    settings = load(
        DESKBASE_ALLOW_PRIVATE_TARGETS="10.0.0.0/8, fd00::/8",
        DESKBASE_ISSUERS='[{"issuer": "https://i", "audience": "a", "jwks_url": "https://i/keys"}]',
    )
    assert settings.allow_private_targets == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert settings.issuers == (Issuer("https://i", "a", "https://i/keys"),)


def test_addresses_to_lead_back_to_are_read() -> None:
    wanted = (
        "https://app.example.com/*",
        "http://localhost:3000",
        "myapp://callback",
        "https://a.example?x=*",
    )
    assert load(DESKBASE_REDIRECT_URLS=" , ".join(wanted) + ",").redirect_urls == wanted


def test_signing_key_is_a_word_or_a_key() -> None:
    jwk = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()))
    assert load(DESKBASE_JWT_SIGNING_KEY="ES256").jwt_signing_key == "ES256"
    assert load(DESKBASE_JWT_SIGNING_KEY=jwk).jwt_signing_key == jwk
    broken = jwk.replace("P-256", "P-384")
    with pytest.raises(SettingsError) as error:
        load(DESKBASE_JWT_SIGNING_KEY=broken)
    assert str(error.value) == (
        "DESKBASE_JWT_SIGNING_KEY must be ES256 or a private JWK of an EC key on P-256."
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("desk.example.com", "http://desk.example.com:8000"),
    ],
)
def test_the_address_to_reach_it_is_never_a_wildcard(host: str, url: str) -> None:
    assert load(DESKBASE_HOST=host).api_url == url


def test_a_public_address_is_kept_without_its_slash() -> None:
    assert load(DESKBASE_PUBLIC_URL="https://desk.example.com/").public_url == "https://desk.example.com"


def test_settings_print_without_their_secrets() -> None:
    settings = load(DESKBASE_JWT_SECRET="s" * 40, DESKBASE_ADMIN_PASSWORD="hidden")
    assert "ssss" not in f"{settings!r} {settings}"
    assert "hidden" not in repr(settings)


def test_every_field_has_one_variable_of_its_own() -> None:
    names = [env.name for _, env in variables()]
    assert len(names) == len(set(names)) == len(Settings.__slots__)


def test_the_example_file_shows_every_setting() -> None:
    shown = re.findall(r"^#(DESKBASE_\w+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE)
    assert shown == [env.name for _, env in variables() if not env.internal]

"""What people do for themselves: sign up, log in, their account, their second factors."""

from typing import Any

import msgspec
from litestar import delete, get, post, put

from api.accounts import invalid
from api.bodies import given
from api.door import Reply
from api.errors import ApiError

from .envelope import API_VERSION
from .requests import (
    AnyRequest,
    accounts_of,
    answer,
    body,
    check_key,
    mail_options,
    no_content,
    path_id,
    required,
    services_of,
    user_claims,
    visitor,
)
from .structs import (
    CodeGrant,
    EnrollFactor,
    Otp,
    PasswordGrant,
    Recover,
    RefreshGrant,
    Resend,
    SignUp,
    UpdateUser,
    VerifyFactor,
)

OPEN_PATHS = frozenset({"/health", "/settings", "/.well-known/jwks.json"})
SCOPES = frozenset({"global", "local", "others"})
_NOTHING = b"{}"
_NEEDS_EMAIL = "An email address is required"


@get("/health", operation_id="AuthHealth")
async def health(request: AnyRequest) -> Reply:  # noqa: ARG001
    """Say who answers."""
    return answer(b'{"name":"Deskbase","description":"Accounts of Deskbase, for Supabase Auth\'s clients"}')


@get("/settings", operation_id="AuthSettings")
async def settings(request: AnyRequest) -> Reply:
    """Say what may be done here: log in by e-mail, and by nothing else."""
    scope: Any = request.scope
    check_key(scope, services_of(request).credentials)
    says = {
        "external": {"email": True, "phone": False, "anonymous_users": False},
        "disable_signup": False,
        "mailer_autoconfirm": services_of(request).settings.autoconfirm,
        "phone_autoconfirm": False,
        "sms_provider": "",
        "saml_enabled": False,
        "mfa_enabled": True,
    }
    return answer(msgspec.json.encode(says))


@get("/.well-known/jwks.json", operation_id="Jwks")
async def jwks(request: AnyRequest) -> Reply:
    """Answer the public keys that access tokens can be verified with."""
    content = services_of(request).credentials.public_jwks
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"public, max-age=600"),
        API_VERSION,
    ]
    return Reply(200, content, headers)


@post("/signup", operation_id="SignUp")
async def sign_up(request: AnyRequest) -> Reply:
    """Make an account."""
    data = await body(request, SignUp)
    _refuse_phone(data.phone if not data.email else None)
    if not data.email:
        raise ApiError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
    password = required(data.password, "Signup requires a valid password")
    return answer(
        await accounts_of(request).sign_up(
            data.email, password, given(data.data) or _NOTHING, mail_options(request, data), visitor(request)
        )
    )


@post("/token", operation_id="Token")
async def token(request: AnyRequest) -> Reply:
    """Answer a session for a password, a refresh token, or the code of a link."""
    grant = request.query_params.get("grant_type")
    if grant == "password":
        return answer(await _by_password(request))
    if grant == "refresh_token":
        asked = await body(request, RefreshGrant)
        refresh_token = required(asked.refresh_token, "refresh_token required")
        return answer(await accounts_of(request).refresh(refresh_token, visitor(request)))
    if grant == "pkce":
        code = await body(request, CodeGrant)
        sentence = "invalid request: both auth code and code verifier should be non-empty"
        auth_code, verifier = required(code.auth_code, sentence), required(code.code_verifier, sentence)
        return answer(await accounts_of(request).exchange_code(auth_code, verifier, visitor(request)))
    raise ApiError(400, "unsupported_grant_type", "grant_type must be password, refresh_token or pkce")


async def _by_password(request: AnyRequest) -> bytes:
    data = await body(request, PasswordGrant)
    _refuse_phone(data.phone if not data.email else None)
    email = required(data.email, "missing email or phone").strip().lower()
    return await accounts_of(request).log_in(email, data.password or "", visitor(request))


@get("/user", operation_id="GetUser")
async def get_user(request: AnyRequest) -> Reply:
    """Answer the caller's account."""
    return answer(await accounts_of(request).get_user(await user_claims(request)))


@put("/user", operation_id="UpdateUser")
async def update_user(request: AnyRequest) -> Reply:
    """Change the caller's address, password or what they say about themselves."""
    claims = await user_claims(request)
    data = await body(request, UpdateUser)
    _refuse_phone(data.phone)
    return answer(
        await accounts_of(request).update_user(
            claims,
            mail_options(request, data),
            email=data.email,
            password=data.password,
            current_password=data.current_password,
            nonce=data.nonce,
            data=given(data.data),
        )
    )


@get("/reauthenticate", operation_id="Reauthenticate")
async def reauthenticate(request: AnyRequest) -> Reply:
    """Mail the caller a code."""
    await accounts_of(request).reauthenticate(await user_claims(request))
    return answer(_NOTHING)


@post("/logout", operation_id="LogOut", status_code=200)
async def log_out(request: AnyRequest) -> Reply:
    """End the caller's sessions: all, this one, or the others."""
    scope = request.query_params.get("scope") or "global"
    if scope not in SCOPES:
        raise invalid(f"Unsupported logout scope {scope!r:.50}")
    await accounts_of(request).log_out(await user_claims(request), scope)
    return no_content()


@post("/recover", operation_id="Recover", status_code=200)
async def recover(request: AnyRequest) -> Reply:
    """Mail a link by which a new password can be chosen."""
    data = await body(request, Recover)
    email = required(data.email, "Password recovery requires an email")
    await accounts_of(request).request_mail("recovery", email, mail_options(request, data))
    return answer(_NOTHING)


@post("/resend", operation_id="Resend", status_code=200)
async def resend(request: AnyRequest) -> Reply:
    """Mail a link once more."""
    data = await body(request, Resend)
    _refuse_phone(data.phone if not data.email else None)
    if data.type not in {"signup", "email_change"}:
        raise invalid("type must be signup or email_change")
    email = required(data.email, _NEEDS_EMAIL)
    await accounts_of(request).request_mail(data.type, email, mail_options(request, data))
    return answer(_NOTHING)


@post(["/otp", "/magiclink"], operation_id="Otp", status_code=200)
async def otp(request: AnyRequest) -> Reply:
    """Mail a link, and a code, that log in without a password."""
    data = await body(request, Otp)
    _refuse_phone(data.phone if not data.email else None)
    email = required(data.email, _NEEDS_EMAIL)
    metadata = (given(data.data) or _NOTHING) if data.create_user in {None, True} else None
    await accounts_of(request).request_mail("magiclink", email, mail_options(request, data), metadata)
    return answer(_NOTHING)


@post("/factors", operation_id="EnrollFactor", status_code=200)
async def enroll(request: AnyRequest) -> Reply:
    """Add an authenticator app."""
    claims = await user_claims(request)
    data = await body(request, EnrollFactor)
    if data.factor_type != "totp":
        raise invalid("factor_type needs to be totp")
    issuer = data.issuer or "Deskbase"
    return answer(await accounts_of(request).enroll(claims, data.friendly_name or "", issuer))


@post("/factors/{factor_id:str}/challenge", operation_id="ChallengeFactor", status_code=200)
async def challenge(request: AnyRequest) -> Reply:
    """Begin to prove a factor."""
    claims = await user_claims(request)
    await body(request, msgspec.Struct)
    return answer(await accounts_of(request).challenge(claims, _factor_id(request), visitor(request)))


@post("/factors/{factor_id:str}/verify", operation_id="VerifyFactor", status_code=200)
async def verify_factor(request: AnyRequest) -> Reply:
    """Prove a factor by its code, and answer the session that it raises."""
    claims = await user_claims(request)
    data = await body(request, VerifyFactor)
    challenge_id = required(data.challenge_id, "challenge_id is required")
    code = required(data.code, "code is required")
    return answer(await accounts_of(request).verify_factor(claims, _factor_id(request), challenge_id, code))


@delete("/factors/{factor_id:str}", operation_id="UnenrollFactor", status_code=200)
async def unenroll(request: AnyRequest) -> Reply:
    """Take a factor away."""
    claims, factor_id = await user_claims(request), _factor_id(request)
    await accounts_of(request).unenroll(claims, factor_id)
    return answer(msgspec.json.encode({"id": factor_id}))


def _factor_id(request: AnyRequest) -> str:
    return path_id(request, "factor_id", "mfa_factor_not_found", "Factor not found")


def _refuse_phone(phone: str | None) -> None:
    if phone:
        raise ApiError(400, "phone_provider_disabled", "Phone logins are disabled")


HANDLERS: list[Any] = [
    health,
    settings,
    jwks,
    sign_up,
    token,
    get_user,
    update_user,
    reauthenticate,
    log_out,
    recover,
    resend,
    otp,
    enroll,
    challenge,
    verify_factor,
    unenroll,
]

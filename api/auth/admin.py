"""What whoever holds the service role key does with anybody's account."""

import re
from typing import Any
from urllib.parse import urlencode

import msgspec
from litestar import delete, get, post, put

from api.accounts import invalid, known_hash, metadata_in, normal_email
from api.bodies import given
from api.db import Row
from api.door import Reply
from api.mail_links import Secret, link

from .requests import (
    UUID,
    AnyRequest,
    accounts_of,
    allowed_redirect,
    answer,
    body,
    mail_options,
    path_id,
    require_service,
    required,
    services_of,
)
from .structs import AdminUser, DeleteUser, GenerateLink, Invite

LIST = b"select body, total from auth_service.admin_list($1, $2)"
GET = b"select auth_service.admin_user($1)"
CREATE = b"select auth_service.admin_create($1, $2)"
UPDATE = b"select auth_service.admin_update($1, $2, $3)"
DELETE = b"select auth_service.admin_delete($1, $2)"
INVITE = b"select auth_service.admin_invite($1, $2, $3)"
LINK = b"select auth_service.admin_link($1, $2, $3, $4, $5, $6, $7, $8)"
FACTORS = b"select auth_service.admin_factors($1)"
DELETE_FACTOR = b"select auth_service.admin_delete_factor($1, $2)"

LARGEST_PAGE = 1000
_DURATION = re.compile(r"(?:(\d{1,7})h)?(?:(\d{1,9})m)?(?:(\d{1,10})s)?", re.ASCII)


@get("/admin/users", operation_id="ListUsers")
async def list_users(request: AnyRequest) -> Reply:
    """List accounts, newest first."""
    await require_service(request)
    page, size = _number(request, "page", 1, 2**31 - 1), _number(request, "per_page", 50, LARGEST_PAGE)
    content, total = await services_of(request).db.one(LIST, (page, size))
    count = int(total or 0)
    headers = [(b"x-total-count", b"%d" % count)]
    last = max(1, -(-count // size))
    links = [(page + 1, "next")] if page < last else []
    base = f"{services_of(request).settings.public_url}/auth/v1/admin/users"
    texts = [
        f'<{base}?{urlencode({"page": number, "per_page": size})}>; rel="{name}"'
        for number, name in [*links, (last, "last")]
    ]
    headers.append((b"link", ", ".join(texts).encode()))
    return answer(content or b"", 200, *headers)


@post("/admin/users", operation_id="CreateUser", status_code=200)
async def create_user(request: AnyRequest) -> Reply:
    """Make an account without a mail."""
    await require_service(request)
    data = await body(request, AdminUser)
    attributes = _attributes(data)
    if "email" not in attributes:
        raise invalid("Cannot create a user without an email address")
    if "id" in attributes and not UUID.fullmatch(attributes["id"]):
        raise invalid("ID must conform to the uuid v4 format")
    return await _call(request, CREATE, msgspec.json.encode(attributes), await _hash_in(request, data))


@get("/admin/users/{user_id:str}", operation_id="GetUserById")
async def get_user(request: AnyRequest) -> Reply:
    """Answer an account."""
    await require_service(request)
    return await _call(request, GET, _user_id(request))


@put("/admin/users/{user_id:str}", operation_id="UpdateUserById")
async def update_user(request: AnyRequest) -> Reply:
    """Change an account."""
    await require_service(request)
    user_id, data = _user_id(request), await body(request, AdminUser)
    attributes = {name: value for name, value in _attributes(data).items() if name != "id"}
    hashed = await _hash_in(request, data)
    return await _call(request, UPDATE, user_id, msgspec.json.encode(attributes), hashed)


@delete("/admin/users/{user_id:str}", operation_id="DeleteUser", status_code=200)
async def delete_user(request: AnyRequest) -> Reply:
    """Delete an account."""
    await require_service(request)
    user_id, data = _user_id(request), await body(request, DeleteUser)
    await services_of(request).db.one(DELETE, (user_id, bool(data.should_soft_delete)))
    return answer(b"{}")


@post("/invite", operation_id="Invite", status_code=200)
async def invite(request: AnyRequest) -> Reply:
    """Make an account whose password its reader chooses, and mail the link."""
    await require_service(request)
    data = await body(request, Invite)
    email = normal_email(required(data.email, "An email address is required"))
    options = mail_options(request, data).json()
    return await _call(request, INVITE, email, metadata_in(given(data.data)), options)


@post("/admin/generate_link", operation_id="GenerateLink", status_code=200)
async def generate_link(request: AnyRequest) -> Reply:
    """Answer what a mail would hold, and mail nothing."""
    await require_service(request)
    data = await body(request, GenerateLink)
    accounts, settings = accounts_of(request), services_of(request).settings
    email = normal_email(required(data.email, "An email address is required"))
    new_email = normal_email(data.new_email) if data.new_email else None
    if data.type.startswith("email_change"):
        required(new_email, "new_email is required")
    hashed = None
    if data.type == "signup":
        hashed = await accounts.hashed(required(data.password, "Signup requires a valid password"))
    secret = Secret.make()
    address = (new_email or email) if data.type == "email_change_new" else email
    metadata = metadata_in(given(data.data))
    asked = request.query_params.get("redirect_to") or data.redirect_to
    redirect_to = allowed_redirect(services_of(request), asked) or settings.public_url
    (person,) = await services_of(request).db.one(
        LINK,
        (
            data.type,
            email,
            new_email,
            metadata,
            hashed,
            secret.token_hash,
            secret.code_hash(settings.jwt_secret, address),
            b"{}",
        ),
    )
    kind = "email_change" if data.type.startswith("email_change") else data.type
    made = {
        "action_link": link(settings.public_url, kind, secret.token, redirect_to),
        "email_otp": secret.code,
        "hashed_token": secret.token,
        "redirect_to": redirect_to,
        "verification_type": data.type,
    }
    return answer(msgspec.json.encode(msgspec.json.decode(person or b"{}", type=dict[str, Any]) | made))


@get("/admin/users/{user_id:str}/factors", operation_id="ListFactors")
async def list_factors(request: AnyRequest) -> Reply:
    """List somebody's second factors."""
    await require_service(request)
    return await _call(request, FACTORS, _user_id(request))


@delete("/admin/users/{user_id:str}/factors/{factor_id:str}", operation_id="DeleteFactor", status_code=200)
async def delete_factor(request: AnyRequest) -> Reply:
    """Take a factor away from somebody who lost it."""
    await require_service(request)
    factor_id = path_id(request, "factor_id", "mfa_factor_not_found", "Factor not found")
    return await _call(request, DELETE_FACTOR, _user_id(request), factor_id)


async def _call(request: AnyRequest, statement: bytes, *params: Any) -> Reply:
    row: Row = await services_of(request).db.one(statement, params)
    return answer(row[0] or b"null")


async def _hash_in(request: AnyRequest, data: AdminUser) -> str | None:
    if data.password:
        return await accounts_of(request).hashed(data.password)
    return known_hash(data.password_hash) if data.password_hash else None


def _attributes(data: AdminUser) -> dict[str, Any]:
    """Return what is given of it, checked. Raises ApiError."""
    if data.role not in {None, "", "authenticated"}:
        raise invalid("role must be authenticated; what a member may do is said in app_metadata.role")
    metadata_in(given(data.user_metadata))
    metadata_in(given(data.app_metadata))
    found: dict[str, Any] = {
        "id": data.id,
        "email": normal_email(data.email) if data.email else None,
        "phone": data.phone,
        "email_confirm": data.email_confirm,
        "phone_confirm": data.phone_confirm,
        "user_metadata": data.user_metadata if given(data.user_metadata) else None,
        "app_metadata": data.app_metadata if given(data.app_metadata) else None,
        "ban_seconds": _seconds(data.ban_duration) if data.ban_duration else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _seconds(duration: str) -> int:
    """Return the seconds of a duration such as 24h or 1h30m; `none` is 0. Raises ApiError."""
    if duration == "none":
        return 0
    found = _DURATION.fullmatch(duration)
    if not duration or not found:
        raise invalid("ban_duration must be none, or a duration such as 24h or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def _number(request: AnyRequest, name: str, default: int, largest: int) -> int:
    text = request.query_params.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or not 1 <= int(text) <= largest:
        raise invalid(f"{name} must be a whole number from 1 to {largest}")
    return int(text)


def _user_id(request: AnyRequest) -> str:
    return path_id(request, "user_id", "user_not_found", "User not found")


HANDLERS: list[Any] = [
    list_users,
    create_user,
    get_user,
    update_user,
    delete_user,
    invite,
    generate_link,
    list_factors,
    delete_factor,
]

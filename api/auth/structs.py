"""The bodies of `/auth/v1`. Clients send null for what they leave out, and more than is read here."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from api.bodies import JsonObject

LinkKind = Literal["signup", "invite", "magiclink", "recovery", "email_change", "email"]
Text = Annotated[str, Meta(max_length=1000)]
Secret = Annotated[str, Meta(max_length=2000)]


class Challenge(Struct):
    """What PKCE adds to whatever mails a link."""

    code_challenge: Secret | None = None
    code_challenge_method: Text | None = None


class SignUp(Challenge):
    """`POST /signup`."""

    email: Text | None = None
    phone: Text | None = None
    password: Secret | None = None
    data: JsonObject = Raw()


class PasswordGrant(Struct):
    """`POST /token?grant_type=password`."""

    email: Text | None = None
    phone: Text | None = None
    password: Secret | None = None


class RefreshGrant(Struct):
    """`POST /token?grant_type=refresh_token`."""

    refresh_token: Secret | None = None


class CodeGrant(Struct):
    """`POST /token?grant_type=pkce`."""

    auth_code: Secret | None = None
    code_verifier: Secret | None = None


class UpdateUser(Challenge):
    """`PUT /user`. What a user may not write of themselves is not here, and so is ignored."""

    email: Text | None = None
    phone: Text | None = None
    password: Secret | None = None
    current_password: Secret | None = None
    nonce: Text | None = None
    data: JsonObject = Raw()


class Recover(Challenge):
    """`POST /recover`."""

    email: Text | None = None


class Resend(Challenge):
    """`POST /resend`."""

    type: Text | None = None
    email: Text | None = None
    phone: Text | None = None


class Otp(Challenge):
    """`POST /otp`."""

    email: Text | None = None
    phone: Text | None = None
    create_user: bool | None = None
    data: JsonObject = Raw()


class Verify(Struct):
    """`POST /verify`."""

    type: LinkKind
    token: Secret | None = None
    token_hash: Secret | None = None
    email: Text | None = None


class EnrollFactor(Struct):
    """`POST /factors`."""

    factor_type: Text | None = None
    friendly_name: Annotated[str, Meta(max_length=200)] | None = None
    issuer: Annotated[str, Meta(max_length=50)] | None = None


class VerifyFactor(Struct):
    """`POST /factors/{id}/verify`."""

    challenge_id: Text | None = None
    code: Text | None = None


class AdminUser(Struct):
    """`POST /admin/users` and `PUT /admin/users/{id}`."""

    id: Text | None = None
    email: Text | None = None
    phone: Text | None = None
    password: Secret | None = None
    password_hash: Text | None = None
    email_confirm: bool | None = None
    phone_confirm: bool | None = None
    user_metadata: JsonObject = Raw()
    app_metadata: JsonObject = Raw()
    role: Text | None = None
    ban_duration: Text | None = None


class DeleteUser(Struct):
    """`DELETE /admin/users/{id}`."""

    should_soft_delete: bool | None = None


class Invite(Challenge):
    """`POST /invite`."""

    email: Text | None = None
    data: JsonObject = Raw()


class GenerateLink(Struct):
    """`POST /admin/generate_link`."""

    type: Literal["signup", "invite", "magiclink", "recovery", "email_change_current", "email_change_new"]
    email: Text | None = None
    new_email: Text | None = None
    password: Secret | None = None
    data: JsonObject = Raw()
    redirect_to: Annotated[str, Meta(max_length=2000)] | None = None

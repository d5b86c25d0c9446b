"""Errors: which HTTP status a fault has, and the words that programs may rely on.

In charge of the one table from SQLSTATE to status (that of PostgREST 12.0.2, as tried out, so that a direct
client and a contract get the same status from the same line of SQL), of the exceptions that everything in
`api/` raises, and of the list of published words. The shape of an error body is each contract's envelope;
what is logged is `api.logs`' business.
"""

from http import HTTPStatus

WORDS = {
    "conflict": "The change conflicts with what is stored.",
    "forbidden": "This credential may not do that.",
    "idempotency_conflict": "This Idempotency-Key was used with another request.",
    "insufficient_scope": "The token lacks the scope that this needs.",
    "internal_error": "Something went wrong on the server.",
    "invalid_field": "A field has a value that is not allowed.",
    "invalid_json": "The body is not valid JSON.",
    "invalid_token": "The token is invalid, expired, disabled or revoked.",
    "last_admin": "An organization keeps at least one active admin.",
    "method_not_allowed": "This path does not know that method.",
    "missing_required_field": "A required field is missing.",
    "missing_token": "No Authorization header was given.",
    "not_an_agent": "The person named is no agent of this organization.",
    "not_authorized": "This ticket was made with another token.",
    "not_found": "There is no such resource.",
    "payload_too_large": "The body is larger than allowed.",
    "rate_limit_exceeded": "Rate limit exceeded",
    "second_factor_required": "The second factor has to be verified first.",
    "session_ended": "The session has ended; sign in again.",
    "stale": "The ticket has changed since the version in If-Match.",
    "ticket_closed": "The ticket is closed.",
    "token_revoked": "A revoked token stays revoked; create a new one.",
    "unavailable": "The service is briefly unavailable; try again.",
    "unsupported_media_type": "The body must be sent as application/json.",
    "validation_failed": "The token could not be checked.",
    "weak_password": "The password is too short, too long or too common.",
}
"""Every published word and its sentence. A word is never given a second meaning."""

WORD_OF_STATUS = {
    400: "invalid_field",
    401: "not_authorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    503: "unavailable",
}
"""The word for a fault that names none itself."""

_STATUS_OF_STATE = {
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "42883": 404,
    "42P01": 404,
    "57P01": 503,
    "P0001": 400,
}
_STATUS_OF_CLASS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "53": 503,
    "54": 413,
    "55": 500,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "XX": 500,
}
_INSUFFICIENT_PRIVILEGE = "42501"


class ApiError(Exception):
    """A request that is refused: its HTTP status, its word for programs, and a sentence for people.

    `details`, where there are any, are a text, or the JSON text that the database gave. `headers` go out
    with the answer.
    """

    def __init__(
        self,
        status: int,
        word: str,
        sentence: str = "",
        details: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.status = status
        self.word = word
        self.sentence = sentence or WORDS.get(word) or HTTPStatus(status).phrase
        self.details = details
        self.headers = headers
        super().__init__(self.sentence)


class UnavailableError(ApiError):
    """The service is briefly unavailable; try again."""

    def __init__(self) -> None:
        super().__init__(503, "unavailable", headers=((b"retry-after", b"1"),))


class SqlError(Exception):
    """A statement that the database refused. Its text is for the log, not for a client."""

    def __init__(self, state: str, message: str, detail: str | None = None) -> None:
        self.state = state
        self.message = message
        self.detail = detail
        super().__init__(f"{state}: {message}")


def status_of(state: str, *, authenticated: bool = True) -> int:
    """Return the status that PostgREST gives the SQLSTATE."""
    if state == _INSUFFICIENT_PRIVILEGE:
        return 403 if authenticated else 401
    if state.startswith("PT"):
        return _status_in(state)
    return _STATUS_OF_STATE.get(state) or _STATUS_OF_CLASS.get(state[:2], 400)


def _status_in(state: str) -> int:
    digits = state[2:]
    return int(digits) if digits.isdigit() and 100 <= int(digits) <= 599 else 400


def of_database(error: SqlError) -> ApiError:
    """Turn a refusal of an entry function into the answer for its client.

    What the SQL says itself (PTnnn) is passed on. Of the rest the client learns the status alone, and a
    statement that is itself at fault, which no client of a contract can cause, is an internal error.
    """
    if error.state.startswith("PT"):
        return ApiError(_status_in(error.state), error.message, *_sentence_and_details(error))
    if is_own_fault(error.state):
        return ApiError(500, "internal_error")
    status = status_of(error.state)
    return (
        UnavailableError()
        if status == 503
        else ApiError(status, WORD_OF_STATUS.get(status, "internal_error"))
    )


def _sentence_and_details(error: SqlError) -> tuple[str, str | None]:
    detail = error.detail or ""
    if detail.startswith(("{", "[")):
        return WORDS.get(error.message, error.message), detail
    return detail, None


def is_own_fault(state: str) -> bool:
    """Whether the SQLSTATE says that our own SQL is wrong, so that it is worth an alarm."""
    if state == _INSUFFICIENT_PRIVILEGE:
        return False
    return state[:2] in {"21", "42"} or status_of(state) == 500

"""The error envelope of the helpdesk contract: `{error, details}`, in the words that its clients know.

In charge of turning every fault, whoever found it, into the contract's answer: of a validation `details` has
a list of sentences for each field, of all else a sentence and the stable word.
"""

from http import HTTPStatus
from typing import Any

import msgspec

from api.bodies import Fault, InvalidBodyError, Problem
from api.door import Answer
from api.errors import ApiError

REALM = b'Bearer realm="helpdesk"'
TITLES = {
    400: "Validation failed",
    401: "Authentication failed",
    403: "Permission denied",
    404: "Not found",
    429: "Request was throttled",
}
"""What `error` says; of any other status it is the name that HTTP has for it."""

SENTENCES = {
    Problem.MISSING: "This field is required.",
    Problem.NULL: "This field may not be null.",
    Problem.BLANK: "This field may not be blank.",
    Problem.UNSTORABLE: "Null characters are not allowed.",
    Problem.CHOICE: "Invalid choice.",
}
KINDS = {
    "array": "Expected a list of items.",
    "boolean": "Must be a valid boolean.",
    "date-time": "Datetime has wrong format. Use YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z].",
    "integer": "A valid integer is required.",
    "object": "Expected a dictionary of items.",
    "string": "Not a valid string.",
}
OTHER_WORDS = {"missing_token": "Authentication credentials were not provided."}
WHOLE = "non_field_errors"


def envelope(error: ApiError, request_id: bytes) -> Answer:
    """Make the answer for an error; a 5xx names the request and nothing else of ours."""
    headers = [(b"content-type", b"application/json"), *error.headers]
    if error.status == 401:
        invalid = b"" if error.word == "missing_token" else b', error="invalid_token"'
        headers.append((b"www-authenticate", REALM + invalid))
    content = msgspec.json.encode({"error": title_of(error.status), "details": _details(error, request_id)})
    headers.append((b"content-length", b"%d" % len(content)))
    return error.status, headers, content


def title_of(status: int) -> str:
    """Return what `error` says."""
    return TITLES.get(status) or HTTPStatus(status).phrase


def faults_of(error: InvalidBodyError) -> dict[str, list[str]]:
    """Return what is wrong with a body, by field."""
    return {fault.field: [_sentence(fault)] for fault in error.faults} or {WHOLE: [error.sentence]}


def _details(error: ApiError, request_id: bytes) -> dict[str, Any]:
    if isinstance(error, InvalidBodyError):
        return faults_of(error)
    has_more = error.details is not None and error.details.startswith("{")
    more: dict[str, Any] = msgspec.json.decode(error.details) if has_more and error.details else {}
    if error.status == 400:
        return more or {error.details or WHOLE: [error.sentence]}
    if error.status >= 500:
        more = {"request_id": request_id.decode()}
    return {"detail": OTHER_WORDS.get(error.word, error.sentence), "code": error.word, **more}


def _sentence(fault: Fault) -> str:
    schema = fault.schema
    if fault.problem is Problem.LENGTH:
        largest = (
            f"{schema['maxLength']} characters" if "maxLength" in schema else f"{schema['maxItems']} elements"
        )
        return f"Ensure this field has no more than {largest}."
    if fault.problem is Problem.SMALL:
        return f"Ensure this value is greater than or equal to {schema['minimum']}."
    if fault.problem is Problem.LARGE:
        return f"Ensure this value is less than or equal to {schema['maximum']}."
    if fault.problem is Problem.FORM and "format" not in schema and "pattern" in schema:
        return "Enter a valid value."
    return SENTENCES.get(fault.problem) or KINDS[schema.get("format") or schema["type"]]

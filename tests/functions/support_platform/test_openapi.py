"""The OpenAPI document says what the service does, and Schemathesis walks it to see."""

import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from requests import PreparedRequest
from requests.auth import AuthBase
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.schemas import OpenApiSchema

from api.errors import WORDS
from functions.support_platform.structs import DATA, AnyDelivery
from tests.desk import Desk

from .conftest import BASE, MOUNT, Person, Sender

Document = dict[str, Any]
UUID = re.compile("[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
OPERATIONS = {
    ("/v1/tickets", "get"): "ListTickets",
    ("/v1/tickets", "post"): "CreateTicket",
    ("/v1/tickets/{ticket_id}", "get"): "GetTicket",
    ("/v1/tickets/{ticket_id}/messages", "get"): "ListMessages",
    ("/v1/tickets/{ticket_id}/messages", "post"): "SendMessage",
    ("/v1/categories", "get"): "ListCategories",
    ("/v1/webhooks/incoming", "post"): "ReceiveWebhook",
}


@pytest.fixture(scope="module")
def document(desk: Desk) -> Document:
    answer = httpx.get(f"{desk.url}{BASE}/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: Document = answer.json()
    return found


def operations(document: Document) -> list[tuple[str, str, Document]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_document_has_every_operation(document: Document) -> None:
    found = {(path, method): operation["operationId"] for path, method, operation in operations(document)}
    assert found == OPERATIONS


def test_document_names_the_address_it_was_asked_at(desk: Desk) -> None:
    for mount in (MOUNT, f"/functions/v1{MOUNT}"):
        assert httpx.get(f"{desk.url}{mount}/v1/openapi.json").json()["servers"] == [{"url": mount}]


def test_every_operation_documents_its_answers(document: Document) -> None:
    for path, _, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"401", "403", "429", "500", "503"} <= statuses
        assert statuses & {"200", "201"}
        assert ("requestBody" in operation) == ({"413", "415"} <= statuses)
        assert [p["name"] for p in operation["parameters"] if p["in"] == "path"] == re.findall(
            r"{(\w+)}", path
        )
        for status, answer in operation["responses"].items():
            content = answer["content"]["application/json"]
            assert "X-Request-ID" in answer["headers"]
            for word, example in content.get("examples", {}).items():
                assert word in WORDS
                assert list(example["value"]) == ["detail"]
            assert bool(content.get("examples")) == (int(status) >= 400)


def test_every_reference_leads_somewhere(document: Document) -> None:
    text = httpx.Response(200, json=document).text.replace(" ", "")
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', text):
        place: Any = document
        for step in reference.split("/"):
            place = place[step]


def test_webhook_alone_wants_no_jwt(document: Document) -> None:
    assert document["security"] == [{"jwt": []}]
    assert document["components"]["securitySchemes"]["jwt"]["scheme"] == "bearer"
    open_ones = [o["operationId"] for _, _, o in operations(document) if o.get("security") == []]
    assert open_ones == ["ReceiveWebhook"]


def test_deliveries_are_documented_as_they_are_read() -> None:
    documented = {kind.__struct_config__.tag: kind for kind in AnyDelivery.__args__}
    assert {tag: kind.__annotations__["data"] for tag, kind in documented.items()} == DATA


def test_request_examples_work(document: Document, customer: Person, sender: Sender, ticket: str) -> None:
    for path, method, operation in operations(document):
        if body := operation.get("requestBody"):
            example = body["content"]["application/json"]["example"]
            if operation["operationId"] == "ReceiveWebhook":
                answer = sender.sends(example["event"], **example["data"])
            else:
                local = path.removeprefix("/v1").format(ticket_id=ticket)
                answer = customer.request(method, local, json=example)
            assert str(answer.status_code) in operation["responses"]
            assert answer.is_success


def test_pages_show_the_document_beside_them(desk: Desk) -> None:
    for page, script in (("docs", "swagger-ui-bundle.js"), ("redoc", "redoc.standalone.js")):
        answer = httpx.get(f"{desk.url}/functions/v1{BASE}/{page}")
        assert answer.headers["content-type"].startswith("text/html")
        assert script in answer.text
        assert "openapi.json" in answer.text


# Schemathesis


class Credentials(AuthBase):
    """Signs a delivery; shows a JWT with everything else."""

    def __init__(self, person: Person, sender: Sender) -> None:
        self._person = person
        self._sender = sender

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if "/webhooks/" in str(request.url):
            content: Any = request.body or b""
            signed = content.encode() if isinstance(content, str) else content
            request.headers["X-Signature"] = self._sender.sign(signed)
            request.headers.pop("X-Timestamp", None)
        else:
            request.headers["Authorization"] = f"Bearer {self._person.jwt}"
        return request


def without_category(case: Case[Any]) -> Case[Any]:
    """Take away an id that is well-formed: no schema can say which categories there are."""
    for part in (case.body, case.body.get("data") if isinstance(case.body, dict) else None):
        if isinstance(part, dict) and UUID.fullmatch(str(part.get("category_id"))):
            part["category_id"] = None
    return case


@pytest.fixture(scope="module")
def walked(desk: Desk) -> OpenApiSchema:
    # A schema cannot say that no text in a delivery's unknown fields holds NUL.
    config = SchemathesisConfig.from_dict({"generation": {"allow-x00": False}})
    return schemathesis.openapi.from_url(f"{desk.url}{BASE}/openapi.json", config=config)


@pytest.mark.parametrize("name", OPERATIONS.values())
def test_answers_are_those_of_the_document(
    walked: OpenApiSchema, agent: Person, sender: Sender, name: str
) -> None:
    operation = walked.find_operation_by_id(name)

    @given(case=operation.as_strategy().map(without_category))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case[Any]) -> None:
        case.call_and_validate(auth=Credentials(agent, sender))

    check()

"""The OpenAPI document says what the service does."""

import re
from typing import Any

import httpx
import pytest

from api.errors import WORDS
from tests.desk import Desk

from .conftest import BASE, Partner

Document = dict[str, Any]


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
    assert {(path, method) for path, method, _ in operations(document)} == {
        ("/", "get"),
        ("/tickets", "post"),
        ("/tickets/{ticket_id}", "get"),
        ("/tickets/{ticket_id}/comments", "post"),
        ("/tickets/{ticket_id}/status", "patch"),
    }


def test_document_names_the_address_it_was_asked_at(desk: Desk) -> None:
    for base in (BASE, f"/functions/v1{BASE}"):
        assert httpx.get(f"{desk.url}{base}/openapi.json").json()["servers"] == [{"url": base}]


def test_every_operation_documents_its_answers(document: Document) -> None:
    for path, _, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"401", "429", "500", "503"} <= statuses
        assert statuses & {"200", "201"}
        assert ("requestBody" in operation) == ({"413", "415"} <= statuses)
        assert [p["name"] for p in operation["parameters"] if p["in"] == "path"] == re.findall(
            r"{(\w+)}", path
        )
        for status, answer in operation["responses"].items():
            content = answer["content"]["application/json"]
            assert (
                content["schema"]["$ref"].removeprefix("#/components/schemas/")
                in document["components"]["schemas"]
            )
            assert "X-Request-ID" in answer["headers"]
            examples = content.get("examples", {})
            assert all(
                name in WORDS and example["value"]["error"] == name for name, example in examples.items()
            )
            assert bool(examples) == (int(status) >= 400)


def test_every_reference_leads_somewhere(document: Document) -> None:
    for reference in re.findall(
        r'"\$ref":"#/([^"]+)"', httpx.Response(200, json=document).text.replace(" ", "")
    ):
        place: Any = document
        for step in reference.split("/"):
            place = place[step]


def test_security_is_a_bearer_token(document: Document) -> None:
    assert document["security"] == [{"integrationToken": []}]
    scheme = document["components"]["securitySchemes"]["integrationToken"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


def test_request_examples_work(document: Document, partner: Partner, ticket: str) -> None:
    for path, method, operation in operations(document):
        if body := operation.get("requestBody"):
            example = body["content"]["application/json"]["example"]
            answer = partner.request(method, path.format(ticket_id=ticket), json=example)
            assert str(answer.status_code) in operation["responses"]
            assert answer.is_success


def test_pages_show_the_document_beside_them(desk: Desk) -> None:
    for page, script in (("docs", "swagger-ui-bundle.js"), ("redoc", "redoc.standalone.js")):
        answer = httpx.get(f"{desk.url}/functions/v1{BASE}/{page}")
        assert answer.headers["content-type"].startswith("text/html")
        assert script in answer.text
        assert "openapi.json" in answer.text

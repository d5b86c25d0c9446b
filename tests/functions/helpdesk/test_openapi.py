"""The OpenAPI document says what the service does, and schemathesis finds that it does what it says."""

import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.desk import Desk, unique

from .conftest import BASE, User
from .test_rights import OPERATIONS, things

Document = dict[str, Any]
AUTH = {("/auth/token/", "post"), ("/auth/token/refresh/", "post"), ("/auth/token/verify/", "post")}


@pytest.fixture(scope="module")
def document(desk: Desk) -> Document:
    found: Document = httpx.get(f"{desk.url}{BASE}/openapi.json").json()
    return found


def operations(document: Document) -> list[tuple[str, str, Document]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def parameters_of(path: str, ids: dict[str, int]) -> dict[str, int]:
    """Return parameters of the path that lead to something."""
    kinds = {
        "categories": "category",
        "tags": "tag",
        "templates": "template",
        "filters": "filter",
        "users": "user",
    }
    return {"ticket_id": ids["ticket"], "id": ids[kinds.get(path.split("/")[3], "comment")]}


def test_document_has_every_operation(document: Document) -> None:
    def plain(path: str) -> str:
        return re.sub(r"{\w+}", "{}", path)

    expected = {(plain(o.path), o.method.lower()) for o in OPERATIONS} | AUTH
    assert {
        (plain(path).removeprefix("/api/v1"), method) for path, method, _ in operations(document)
    } == expected


def test_document_is_beside_both_pages(desk: Desk, document: Document) -> None:
    for mount in ("/helpdesk", "/functions/v1/helpdesk"):
        for base in ("/api/v1", "/api"):
            assert "openapi.json" in httpx.get(f"{desk.url}{mount}{base}/docs/").text
            assert "openapi.json" in httpx.get(f"{desk.url}{mount}{base}/redoc").text
            beside = httpx.get(f"{desk.url}{mount}{base}/openapi.json").json()
            assert beside == document | {"servers": [{"url": mount}]}


def test_every_operation_documents_its_answers(document: Document) -> None:
    for path, method, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"401", "403", "429", "500", "503"} <= statuses
        assert ("security" in operation) == ("/auth/" in path)
        assert ("requestBody" in operation) == ({"413", "415"} <= statuses)
        assert ("204" in statuses) == (method == "delete")
        in_path = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
        assert in_path == re.findall(r"{(\w+)}", path)
        for status, answer in operation["responses"].items():
            assert "X-Request-ID" in answer["headers"]
            assert ("content" in answer) == (status != "204")


def test_query_parameters_are_those_of_the_contract(document: Document) -> None:
    listed = document["paths"]["/api/v1/tickets/"]["get"]["parameters"]
    assert {p["name"] for p in listed} == {
        "status", "priority", "category", "assigned_to", "created_by", "tags", "search", "ordering", "page",
        "page_size",
    }  # fmt: skip
    assert all(p["in"] == "query" and p["description"] and not p["required"] for p in listed)
    size = next(p["schema"] for p in listed if p["name"] == "page_size")
    assert size == {"type": "integer", "minimum": 1, "maximum": 100, "default": 20} or size["maximum"] == 100


def test_request_examples_work(document: Document, agent: User, customer: User) -> None:
    ids = things(agent, customer)
    for path, method, operation in operations(document):
        body = operation.get("requestBody")
        if not body or "/auth/" in path:
            continue
        example = body["content"]["application/json"]["example"]
        example |= {"name": unique(example["name"])} if "name" in example else {}
        inner = path.removeprefix("/api/v1").format(**parameters_of(path, ids))
        answer = agent.request(method, inner, json=example)
        assert answer.is_success, (path, answer.text)
        assert str(answer.status_code) in operation["responses"]


@pytest.fixture(scope="module")
def schema(desk: Desk) -> OpenApiSchema:
    # A schema cannot say that no text inside an object holds NUL; test_bad_input.py sends some.
    config = SchemathesisConfig.from_dict({"generation": {"allow-x00": False}})
    return schemathesis.openapi.from_url(f"{desk.url}{BASE}/openapi.json", config=config)


IDS = [
    "ObtainToken", "RefreshToken", "VerifyToken", "ListTickets", "ListMyTickets", "GetTicketStats",
    "CreateTicket", "GetTicket", "ReplaceTicket", "UpdateTicket", "DeleteTicket", "AssignTicket",
    "ChangeTicketStatus", "ListComments", "CreateComment", "GetComment", "ReplaceComment", "UpdateComment",
    "DeleteComment", "ListPopularTags", "UseTemplate", "ListUsers", "GetUser",
    *(f"{verb}{name}" for name in ("Category", "Tag", "Template", "Filter")
      for verb in ("Get", "Create", "Replace", "Update", "Delete")),
    "ListCategories", "ListTags", "ListTemplates", "ListFilters",
]  # fmt: skip


def test_ids_of_operations_are_all_walked(document: Document) -> None:
    assert sorted(o["operationId"] for _, _, o in operations(document)) == sorted(IDS)


# No schema tells which rows there are, and which names are taken.
NEEDS_LUCK = re.compile(r".*Tickets?$|(Create|Replace|Update)(Category|Tag)$")


@pytest.mark.parametrize("name", IDS)
def test_answers_are_those_of_the_document(
    schema: OpenApiSchema, agent: User, customer: User, name: str
) -> None:
    operation = schema.find_operation_by_id(name)
    ids = parameters_of(operation.path, things(agent, customer))
    headers = {} if name.endswith("Token") else {"Authorization": f"Bearer {agent.token}"}
    excluded: list[Any] = [positive_data_acceptance] if NEEDS_LUCK.match(name) else []

    @given(case=operation.as_strategy())
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case[Any]) -> None:
        case.path_parameters.update({name: ids[name] for name in case.path_parameters})
        case.headers.pop("If-Match", None)
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    check()

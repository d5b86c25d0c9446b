"""Schemathesis walks the published document: whatever it sends, the answer is one that it promises."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.schemas import OpenApiSchema as Document

from tests.desk import Desk

OPERATIONS = ["Health", "CreateTicket", "GetTicket", "AddComment", "UpdateTicketStatus"]


@pytest.fixture(scope="module")
def document(desk: Desk) -> Document:
    # A schema cannot say that no text inside `metadata` holds NUL; test_bad_input.py sends some.
    config = SchemathesisConfig.from_dict({"generation": {"allow-x00": False}})
    return schemathesis.openapi.from_url(f"{desk.url}/integration-tickets/openapi.json", config=config)


@pytest.fixture(scope="module")
def bearer(desk: Desk) -> dict[str, str]:
    return {"Authorization": f"Bearer {desk.token(rate_limit=1_000_000_000)}"}


def test_document_has_these_operations(document: Document) -> None:
    found = [
        operation["operationId"]
        for path in document.raw_schema["paths"].values()
        for operation in path.values()
    ]
    assert sorted(found) == sorted(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_answers_are_those_of_the_document(document: Document, bearer: dict[str, str], name: str) -> None:
    operation = document.find_operation_by_id(name)

    @given(case=operation.as_strategy())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case[Any]) -> None:
        case.call_and_validate(headers=bearer)

    check()

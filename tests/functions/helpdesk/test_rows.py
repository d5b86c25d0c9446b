"""Categories, tags, templates, saved filters and users: every operation, and whose rows they are."""

from typing import Any

import httpx
import pytest

from tests.desk import Desk, unique

from .conftest import User, assert_error, assert_invalid

UNIQUE = "This field must be unique."
DOCUMENTED: dict[str, dict[str, Any]] = {
    "/categories/": {"name": "New Category", "description": "Category description", "color": "#007bff"},
    "/tags/": {
        "name": "urgent",
        "color": "#dc3545",
        "description": "Urgent issues requiring immediate attention",
    },
    "/templates/": {
        "title": "Welcome Message",
        "content": "Hello {customer_name}, thank you for contacting us regarding {issue_type}.",
        "category": "greeting",
        "is_public": True,
        "variables": ["customer_name", "issue_type"],
    },
    "/filters/": {
        "name": "High Priority Open Tickets",
        "filter_params": {"status": "open", "priority": "high"},
        "is_public": False,
    },
}
FIELDS = {
    "/categories/": ["id", "name", "description", "color", "created_at"],
    "/tags/": ["id", "name", "description", "color", "created_at"],
    "/templates/": ["id", "title", "content", "category", "variables", "is_public", "created_by",
                    "created_at", "updated_at"],
    "/filters/": ["id", "name", "filter_params", "is_public", "created_by", "created_at", "updated_at"],
}  # fmt: skip
PATHS = list(DOCUMENTED)
SHARED = ["/categories/", "/tags/"]


def called(path: str) -> str:
    """The field by which rows are called."""
    return "title" if path == "/templates/" else "name"


def least(path: str, name: str) -> dict[str, Any]:
    """The least that a row needs."""
    return {called(path): name} | ({"content": "x"} if path == "/templates/" else {})


@pytest.mark.parametrize("path", PATHS)
def test_agent_creates_reads_and_lists_what_the_document_shows(newcomer: User, path: str) -> None:
    assert newcomer.read(path) == {"count": 0, "next": None, "previous": None, "results": []}
    answer = newcomer.post(path, json=DOCUMENTED[path])
    assert answer.status_code == 201
    row = answer.json()
    assert list(row) == FIELDS[path]
    assert {name: row[name] for name in DOCUMENTED[path]} == DOCUMENTED[path]
    assert row.get("created_by", newcomer.person) == newcomer.person
    assert newcomer.read(f"{path}{row['id']}/") == row
    assert newcomer.results(path) == [row]


@pytest.mark.parametrize("path", PATHS)
def test_patch_merges_and_put_replaces(newcomer: User, path: str) -> None:
    row = newcomer.make(path, **DOCUMENTED[path])
    own = f"{path}{row['id']}/"
    assert newcomer.patch(own, json={}).json() == row
    answer = newcomer.patch(own, json={called(path): "Other"})
    assert answer.status_code == 200
    untouched = set(DOCUMENTED[path]) - {called(path)}
    assert {name: answer.json()[name] for name in untouched} == {name: row[name] for name in untouched}
    answer = newcomer.put(own, json=least(path, "Third"))
    assert answer.status_code == 200
    after = answer.json()
    assert after[called(path)] == "Third"
    emptied = {"description": "", "category": "", "variables": [], "filter_params": {}}
    assert {name: after[name] for name in emptied if name in after} == {
        name: value for name, value in emptied.items() if name in after
    }
    # Nothing is published, or hidden, by saying nothing.
    assert (after.get("color"), after.get("is_public")) == (row.get("color"), row.get("is_public"))


@pytest.mark.parametrize("path", PATHS)
def test_row_is_deleted_by_whom_it_belongs_to(agent: User, lead: User, customer: User, path: str) -> None:
    row = agent.make(path, **least(path, unique("Row")))
    own = f"{path}{row['id']}/"
    if path in SHARED:
        for client in (customer, agent):
            assert_error(client.delete(own), 403, "Permission denied", "forbidden")
        assert lead.delete(own).status_code == 204
    else:
        assert_error(customer.delete(own), 404, "Not found", "not_found")
        assert agent.delete(own).status_code == 204
    assert_error(agent.get(own), 404, "Not found", "not_found")


@pytest.mark.parametrize("path", SHARED)
def test_customer_reads_categories_and_tags_and_writes_none(agent: User, customer: User, path: str) -> None:
    row = agent.make(path, name=unique("Row"))
    assert customer.read(f"{path}{row['id']}/") == row
    assert row in customer.results(path, search=row["name"])
    for answer in (
        customer.post(path, json={"name": "Mine"}),
        customer.patch(f"{path}{row['id']}/", json={"name": "Mine"}),
        customer.put(f"{path}{row['id']}/", json={"name": "Mine"}),
    ):
        assert_error(answer, 403, "Permission denied", "forbidden")


@pytest.mark.parametrize("path", SHARED)
def test_name_is_there_once(agent: User, stranger: User, path: str) -> None:
    name, other = unique("Name"), agent.make(path, name=unique("Other"))["id"]
    agent.make(path, name=name)
    assert_invalid(agent.post(path, json={"name": name.upper()}), name=UNIQUE)
    assert_invalid(agent.patch(f"{path}{other}/", json={"name": name}), name=UNIQUE)
    assert stranger.post(path, json={"name": name}).status_code == 201


@pytest.mark.parametrize("path", PATHS)
def test_row_of_another_organization_is_not_found(agent: User, stranger: User, path: str) -> None:
    row = agent.make(path, **least(path, unique("Row")))
    own = f"{path}{row['id']}/"
    for answer in (
        stranger.get(own),
        stranger.patch(own, json={called(path): "x"}),
        stranger.put(own, json=least(path, "x")),
        stranger.delete(own),
    ):
        assert_error(answer, 404, "Not found", "not_found")
    assert row["id"] not in stranger.ids(path)
    assert agent.read(own) == row


@pytest.mark.parametrize("path", PATHS)
def test_rows_are_searched_ordered_and_paged(newcomer: User, path: str) -> None:
    for name in ("Beta", "alpha", "gamma one"):
        newcomer.make(path, **least(path, name))
    field = called(path)

    def names(**params: Any) -> list[str]:
        return [row[field] for row in newcomer.results(path, **params)]

    assert sorted(names(), key=str.lower) == ["alpha", "Beta", "gamma one"]
    assert names(ordering="created_at") == ["Beta", "alpha", "gamma one"]
    assert names(ordering="-created_at") == ["gamma one", "alpha", "Beta"]
    assert names(search="ALPH") == ["alpha"]
    assert names(search="a one") == ["gamma one"]
    assert names(search="100%") == []
    page = newcomer.read(path, ordering="created_at", page_size=2, page=2)
    assert [row[field] for row in page["results"]] == ["gamma one"]
    assert page["previous"].endswith(f"{path}?ordering=created_at&page_size=2&page=1")


# Tags


def test_popular_tags_are_counted_by_what_one_sees(newcomer: User, desk: Desk) -> None:
    some, many, none = (newcomer.make("/tags/", name=name) for name in ("some", "many", "none"))
    for tags in ([many["id"], some["id"]], [many["id"]]):
        newcomer.ticket(tags=tags)
    answer = newcomer.get("/tags/popular/")
    assert answer.status_code == 200
    assert answer.json() == [
        {**{name: tag[name] for name in ("id", "name", "description", "color")}, "usage_count": count}
        for tag, count in ((many, 2), (some, 1), (none, 0))
    ]
    with User(desk, desk.member("customer", newcomer.member.organization_id)) as customer:
        assert {tag["usage_count"] for tag in customer.get("/tags/popular/").json()} == {0}


def test_popular_tags_are_twenty(newcomer: User) -> None:
    for number in range(21):
        newcomer.make("/tags/", name=f"tag {number}")
    assert len(newcomer.get("/tags/popular/").json()) == 20


# Templates


def use(client: User, number: int, **context: Any) -> httpx.Response:
    return client.post(f"/templates/{number}/use_template/", json={"context": context})


def test_template_is_used_as_in_the_document(agent: User, colleague: User) -> None:
    template = agent.make("/templates/", **DOCUMENTED["/templates/"])
    for client in (agent, colleague):
        answer = use(client, template["id"], customer_name="John Doe", issue_type="login problem")
        assert answer.status_code == 200
        assert answer.json() == {
            "processed_content": "Hello John Doe, thank you for contacting us regarding login problem.",
            "original_content": "Hello {customer_name}, thank you for contacting us regarding {issue_type}.",
            "variables": ["customer_name", "issue_type"],
        }


def test_template_without_its_variables_names_them(agent: User) -> None:
    template = agent.make("/templates/", **DOCUMENTED["/templates/"])["id"]
    assert_invalid(use(agent, template, customer_name="Jo"), issue_type="This field is required.")
    missing = {"customer_name": "This field is required.", "issue_type": "This field is required."}
    assert_invalid(use(agent, template, customer_name=None), **missing)
    assert_invalid(agent.post(f"/templates/{template}/use_template/", json={}), **missing)


def test_variables_are_those_in_braces_unless_they_are_named(agent: User) -> None:
    content = "Dear {name}, {name}: your {thing} {} {{x}}"
    template = agent.make("/templates/", title="T", content=content)
    assert template["variables"] == ["name", "thing", "x"]
    answer = use(agent, template["id"], name="{thing}", thing=[1, "a"], x=2)
    assert answer.json()["processed_content"] == 'Dear {thing}, {thing}: your [1, "a"] {} {2}'
    template = agent.make("/templates/", title="T", content=content, variables=["name"])
    assert template["variables"] == ["name"]
    answer = use(agent, template["id"], name="Jo", other="x")
    assert answer.json()["processed_content"] == "Dear Jo, Jo: your {thing} {} {{x}}"


def test_private_template_is_its_owners_alone(agent: User, colleague: User, lead: User) -> None:
    own = agent.make("/templates/", title=unique("Mine"), content="x", is_public=False)["id"]
    for client in (colleague, lead):
        assert own not in client.ids("/templates/")
        for answer in (
            client.get(f"/templates/{own}/"),
            client.patch(f"/templates/{own}/", json={"title": "x"}),
            client.delete(f"/templates/{own}/"),
            use(client, own),
        ):
            assert_error(answer, 404, "Not found", "not_found")
    assert use(agent, own).status_code == 200


def test_public_template_is_changed_by_its_owner_or_a_lead(agent: User, colleague: User, lead: User) -> None:
    path = f"/templates/{agent.make('/templates/', title='Ours', content='x')['id']}/"
    for answer in (
        colleague.patch(path, json={"title": "x"}),
        colleague.put(path, json={"title": "x", "content": "x"}),
        colleague.delete(path),
    ):
        assert_error(answer, 403, "Permission denied", "forbidden")
    for client in (agent, lead):
        assert client.patch(path, json={"title": "Better"}).json()["title"] == "Better"


def test_customer_has_no_templates(agent: User, customer: User) -> None:
    public = agent.make("/templates/", title="Ours", content="x")["id"]
    assert customer.read("/templates/")["count"] == 0
    assert_error(customer.get(f"/templates/{public}/"), 404, "Not found", "not_found")
    assert_error(use(customer, public), 404, "Not found", "not_found")
    answer = customer.post("/templates/", json={"title": "Mine", "content": "x"})
    assert_error(answer, 403, "Permission denied", "forbidden")


# Filters


def test_filter_is_its_owners_unless_it_is_public(agent: User, colleague: User, customer: User) -> None:
    own = agent.make("/filters/", name=unique("Mine"))["id"]
    ours = agent.make("/filters/", name=unique("Ours"), is_public=True)["id"]
    assert {own, ours} <= set(agent.ids("/filters/"))
    assert {own, ours} & set(colleague.ids("/filters/")) == {ours}
    assert {own, ours} & set(customer.ids("/filters/")) == set()
    assert_error(colleague.get(f"/filters/{own}/"), 404, "Not found", "not_found")
    for answer in (
        colleague.patch(f"/filters/{ours}/", json={"name": "x"}),
        colleague.delete(f"/filters/{ours}/"),
    ):
        assert_error(answer, 403, "Permission denied", "forbidden")


def test_customer_keeps_filters_and_publishes_none(customer: User) -> None:
    own = customer.make("/filters/", name="Mine", filter_params={"status": "open"})["id"]
    assert customer.read(f"/filters/{own}/")["filter_params"] == {"status": "open"}
    for answer in (
        customer.post("/filters/", json={"name": "x", "is_public": True}),
        customer.patch(f"/filters/{own}/", json={"is_public": True}),
    ):
        assert_error(answer, 403, "Permission denied", "forbidden")


# Users


def test_users_are_those_one_may_know(
    agent: User, customer: User, other_customer: User, stranger: User
) -> None:
    assert {customer.number, other_customer.number, agent.number} <= set(agent.ids("/users/"))
    seen = customer.ids("/users/")
    assert {customer.number, agent.number} <= set(seen)
    assert other_customer.number not in seen
    assert agent.number not in stranger.ids("/users/")
    assert_error(stranger.get(f"/users/{agent.number}/"), 404, "Not found", "not_found")
    user = customer.read(f"/users/{agent.number}/")
    assert user == agent.person | {"name": agent.member.username, "role": "agent", "is_active": True}
    assert customer.ids("/users/", search=agent.member.email.upper()) == [agent.number]


def test_nobody_makes_or_changes_users_here(lead: User, agent: User) -> None:
    assert_error(lead.post("/users/", json={"username": "x"}), 405, "Method Not Allowed")
    assert_error(lead.patch(f"/users/{agent.number}/", json={}), 405, "Method Not Allowed")

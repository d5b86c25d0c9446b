"""Categories, tags, templates, users and saved filters: rows of a table that are kept in the same way.

In charge of the operations on them. Which rows somebody sees or changes, the policies of the table say.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import delete, get, patch, post, put

from api.contract import AnyRequest, body, call, idempotency_key, parameters, path_number, url_of_page
from api.door import Reply
from api.openapi import DOCS, Docs

from . import docs, structs

LIST = b"select body, version from helpdesk.list_rows($1, $2, $3, $4, $5)"
GET = b"select body, version from helpdesk.get_row($1, $2, $3)"
CREATE = b"select body, version from helpdesk.create_row($1, $2, $3, $4)"
UPDATE = b"select body, version from helpdesk.update_row($1, $2, $3, $4)"
DELETE = b"select body, version from helpdesk.delete_row($1, $2, $3)"

_VARIABLE = re.compile(r"\{([^{}]{1,100})\}")


@dataclass(frozen=True, slots=True)
class Entity:
    """A table, and what the contract calls it and takes and answers of it."""

    path: str
    table: str
    name: str
    searched: tuple[str, ...]
    """Columns."""
    query: type[msgspec.Struct]
    answer: Any
    example: dict[str, Any]
    write: type[msgspec.Struct] | None = None
    update: type[msgspec.Struct] | None = None
    write_example: Any = None


ENTITIES = (
    Entity(
        "/categories",
        "categories",
        "Category",
        ("name", "description"),
        structs.NamedQuery,
        structs.Category,
        {
            "id": 1,
            "name": "New Category",
            "description": "Category description",
            "color": "#007bff",
            "created_at": "2024-01-15T10:30:00Z",
        },
        structs.WriteCategory,
        structs.UpdateCategory,
        {"name": "New Category", "description": "Category description", "color": "#007bff"},
    ),
    Entity(
        "/tags",
        "tags",
        "Tag",
        ("name", "description"),
        structs.NamedQuery,
        structs.Tag,
        {
            "id": 1,
            "name": "urgent",
            "description": "Urgent issues requiring immediate attention",
            "color": "#dc3545",
            "created_at": "2024-01-15T10:30:00Z",
        },
        structs.WriteTag,
        structs.UpdateTag,
        {
            "name": "urgent",
            "color": "#dc3545",
            "description": "Urgent issues requiring immediate attention",
        },
    ),
    Entity(
        "/templates",
        "templates",
        "Template",
        ("title", "content", "category"),
        structs.TitledQuery,
        structs.Template,
        {
            "id": 1,
            "title": "Welcome Message",
            "content": docs.USED_TEMPLATE["original_content"],
            "category": "greeting",
            "variables": docs.USED_TEMPLATE["variables"],
            "is_public": True,
            "created_by": docs.PERSON,
            "created_at": "2024-01-15T10:30:00Z",
            "updated_at": "2024-01-15T10:30:00Z",
        },
        structs.WriteTemplate,
        structs.UpdateTemplate,
        {
            "title": "Welcome Message",
            "content": docs.USED_TEMPLATE["original_content"],
            "category": "greeting",
            "is_public": True,
            "variables": docs.USED_TEMPLATE["variables"],
        },
    ),
    Entity(
        "/users",
        "members",
        "User",
        ("username", "email", "name"),
        structs.UserQuery,
        structs.User,
        docs.PERSON | {"name": "Tim Tech", "role": "agent", "is_active": True},
    ),
    Entity(
        "/filters",
        "saved_filters",
        "Filter",
        ("name",),
        structs.NamedQuery,
        structs.Filter,
        {
            "id": 1,
            "name": "High Priority Open Tickets",
            "filter_params": {"status": "open", "priority": "high"},
            "is_public": False,
            "created_by": docs.PERSON,
            "created_at": "2024-01-15T10:30:00Z",
            "updated_at": "2024-01-15T10:30:00Z",
        },
        structs.WriteFilter,
        structs.UpdateFilter,
        {
            "name": "High Priority Open Tickets",
            "filter_params": {"status": "open", "priority": "high"},
            "is_public": False,
        },
    ),
)


def handlers_of(entity: Entity) -> list[Any]:
    """Make the operations on a table: those that read, and those that write if it can be written."""
    path, table, name = entity.path, entity.table, entity.name

    @get(
        path,
        operation_id=f"List{path[1:].title()}",
        summary=f"List {path[1:]}",
        opt={
            DOCS: Docs(
                structs.Listed[entity.answer],  # type: ignore[name-defined]
                docs.page_of(entity.example),
                query=entity.query,
                errors=docs.READ,
            )
        },
    )
    async def list_rows(request: AnyRequest) -> Reply:
        """List what the caller sees."""
        asked = msgspec.json.encode(parameters(request, entity.query))
        return await call(request, 200, LIST, table, entity.searched, asked, url_of_page(request))

    @get(
        f"{path}/{{id:str}}",
        operation_id=f"Get{name}",
        summary=f"Get a {name.lower()}",
        opt={DOCS: Docs(entity.answer, entity.example, errors=docs.FOUND)},
    )
    async def get_row(request: AnyRequest) -> Reply:
        """Answer one."""
        return await call(request, 200, GET, table, path_number(request, "id"))

    reading = [list_rows, get_row]
    return (
        [*reading, *_writers_of(entity, entity.write, entity.update)]
        if entity.write and entity.update
        else reading
    )


def _writers_of(entity: Entity, write: type[msgspec.Struct], update: type[msgspec.Struct]) -> list[Any]:
    path, table, name = entity.path, entity.table, entity.name

    @post(
        path,
        operation_id=f"Create{name}",
        summary=f"Create a {name.lower()}",
        opt={
            DOCS: Docs(
                entity.answer,
                entity.example,
                body=write,
                body_example=entity.write_example,
                parameters=(docs.IDEMPOTENCY_KEY,),
                errors=docs.WRITE | docs.ONCE,
            )
        },
    )
    async def create_row(request: AnyRequest) -> Reply:
        """Create one."""
        data, key = await body(request, write), idempotency_key(request)
        return await call(request, 201, CREATE, table, columns_of(data), key)

    @put(
        f"{path}/{{id:str}}",
        operation_id=f"Replace{name}",
        summary=f"Update a {name.lower()}",
        opt={
            DOCS: Docs(
                entity.answer,
                entity.example,
                body=write,
                body_example=entity.write_example,
                errors=docs.CHANGE,
            )
        },
    )
    async def replace_row(request: AnyRequest) -> Reply:
        """Replace one: texts that are left out are emptied; colour and visibility stay."""
        id_, data = path_number(request, "id"), await body(request, write)
        return await call(request, 200, UPDATE, table, id_, columns_of(data))

    @patch(
        f"{path}/{{id:str}}",
        operation_id=f"Update{name}",
        summary=f"Update some fields of a {name.lower()}",
        opt={
            DOCS: Docs(
                entity.answer,
                entity.example,
                body=update,
                body_example=entity.write_example,
                errors=docs.CHANGE,
            )
        },
    )
    async def update_row(request: AnyRequest) -> Reply:
        """Change the given fields of one."""
        id_, data = path_number(request, "id"), await body(request, update)
        return await call(request, 200, UPDATE, table, id_, columns_of(data))

    @delete(
        f"{path}/{{id:str}}",
        operation_id=f"Delete{name}",
        summary=f"Delete a {name.lower()}",
        opt={DOCS: Docs(errors=docs.FOUND)},
        status_code=200,
    )
    async def delete_row(request: AnyRequest) -> Reply:
        """Delete one."""
        return await call(request, 204, DELETE, table, path_number(request, "id"))

    return [create_row, replace_row, update_row, delete_row]


def columns_of(data: msgspec.Struct) -> bytes:
    """Return what is given of a row as JSON, by column."""
    if isinstance(data, structs.WriteTemplate) and data.variables is msgspec.UNSET:
        data.variables = list(dict.fromkeys(_VARIABLE.findall(data.content)))
    columns = msgspec.structs.asdict(data)
    return msgspec.json.encode({name: value for name, value in columns.items() if value is not msgspec.UNSET})


HANDLERS: list[Any] = [handler for entity in ENTITIES for handler in handlers_of(entity)]

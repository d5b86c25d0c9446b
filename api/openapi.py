"""OpenAPI: a contract's document and its two pages, made from what its routes declare.

In charge of turning each route's `docs(…)` and the msgspec structs named there into an OpenAPI 3.1 document.
What a contract says about itself (title, errors, examples) it says in its own folder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from api.bodies import FORM

JsonObject = dict[str, Any]
DOCS = "docs"
ASSETS_PATH = "/assets/"
ASSETS = {
    "swagger-ui.css": ("text/css; charset=utf-8", "swagger-ui-dist/swagger-ui.css"),
    "swagger-ui-bundle.js": ("text/javascript; charset=utf-8", "swagger-ui-dist/swagger-ui-bundle.js"),
    "redoc.standalone.js": ("text/javascript; charset=utf-8", "redoc/bundles/redoc.standalone.js"),
}
"""What the pages load, by the name under ASSETS_PATH: its media type, and its place in its package."""

_HEADERS: dict[str, JsonObject] = {
    "X-Request-ID": {"description": "Names this request in the logs.", "schema": {"type": "string"}},
    "X-RateLimit-Limit": {"description": "Requests a window.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "Requests left in this window.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {
        "description": "When the window ends, Unix seconds.",
        "schema": {"type": "integer"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "Which credential is wanted.", "schema": {"type": "string"}},
    "ETag": {"description": "The ticket's version, in quotes.", "schema": {"type": "string"}},
}
_RATE = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A header or query parameter of an operation."""

    name: str
    place: str
    description: str
    schema: Mapping[str, Any]
    example: str | None = None
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Docs:
    """What the document says of one operation beyond what its route says itself.

    `answer`, `body` and `query` are types that msgspec can describe; without an answer there is no content.
    """

    answer: Any = None
    example: Any = None
    query: type[msgspec.Struct] | None = None
    body: Any = None
    body_example: Any = None
    parameters: Sequence[Parameter] = ()
    errors: Mapping[int, Sequence[str]] = field(default_factory=dict)
    headers: Sequence[str] = ()
    is_open: bool = False
    """Whether it wants none of the contract's credentials."""
    takes_form: bool = False
    """Whether the body may be a form too."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What the document says of a contract as a whole."""

    title: str
    version: str
    description: str
    security: Mapping[str, Any]
    error: type[msgspec.Struct]
    path_parameters: Mapping[str, Parameter]
    error_example: Any
    slash: str = ""
    """What ends every path."""


def document(app: Litestar, contract: Contract, server: str) -> bytes:
    """Return the document of an app whose routes carry Docs, for the address it is served at."""
    operations = [
        (route, handler, handler.opt[DOCS])
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if DOCS in handler.opt
    ]
    kinds = {kind for _, _, docs in operations for kind in (docs.answer, docs.body) if kind} | {
        contract.error
    }
    ordered = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    refs = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, JsonObject] = {}
    for route, handler, docs in operations:
        for method in sorted(handler.http_methods):
            operation = _operation(handler, docs, contract, refs)
            parameters = [_parameter(contract.path_parameters[name]) for name in route.path_parameters]
            operation["parameters"] = [*parameters, *map(_parameter, [*_query(docs), *docs.parameters])]
            paths.setdefault(route.path_format + contract.slash, {})[method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": contract.title,
                "version": contract.version,
                "description": contract.description,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": server}],
            "security": [{name: []} for name in contract.security],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": dict(contract.security),
                "headers": _HEADERS,
            },
        }
    )


def _operation(
    handler: HTTPRouteHandler, docs: Docs, contract: Contract, refs: Mapping[Any, Any]
) -> JsonObject:
    operation: JsonObject = {
        "operationId": handler.operation_id,
        "summary": handler.summary,
        "description": " ".join((handler.fn.__doc__ or "").split()),
    }
    if docs.is_open:
        operation["security"] = []
    if docs.body:
        content = {"schema": refs[docs.body], "example": docs.body_example}
        media_types = ("application/json", FORM) if docs.takes_form else ("application/json",)
        operation["requestBody"] = {"required": True, "content": dict.fromkeys(media_types, content)}
    success = _response("Done.", refs.get(docs.answer), {"": docs.example}, [*_RATE, *docs.headers])
    # Litestar lets no route that returns an app say that it answers 204.
    status = handler.status_code if docs.answer else 204
    operation["responses"] = {str(status): success} | {
        str(status): _error(status, words, contract, refs) for status, words in sorted(docs.errors.items())
    }
    return operation


def _error(status: int, words: Sequence[str], contract: Contract, refs: Mapping[Any, Any]) -> JsonObject:
    headers = [] if status in {401, 500, 503} else [*_RATE]
    headers += {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status, [])
    examples = {word: contract.error_example(status, word) for word in words}
    return _response(", ".join(f"`{word}`" for word in words), refs[contract.error], examples, headers)


def _response(
    description: str, schema: Any, examples: Mapping[str, Any], headers: Sequence[str]
) -> JsonObject:
    response: JsonObject = {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in ["X-Request-ID", *headers]},
    }
    if schema is None:
        return response
    content: JsonObject = {"schema": schema}
    if list(examples) == [""]:
        content["example"] = examples[""]
    else:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return response | {"content": {"application/json": content}}


def _query(docs: Docs) -> Iterator[Parameter]:
    """Yield the fields of the query's struct; what a field says of itself is the description."""
    for each in msgspec.structs.fields(docs.query) if docs.query else ():
        schema = msgspec.json.schema(each.type)
        yield Parameter(each.encode_name, "query", schema.pop("description", ""), schema)


def _parameter(parameter: Parameter) -> JsonObject:
    described: JsonObject = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.is_required or parameter.place == "path",
        "schema": dict(parameter.schema),
    }
    if parameter.example is not None:
        described["example"] = parameter.example
    return described


@cache
def asset(name: str) -> bytes:
    """Return one of ASSETS."""
    # Found without importing the package, which would want Django.
    package = distribution("drf-spectacular-sidecar")
    place = package.locate_file(f"drf_spectacular_sidecar/static/drf_spectacular_sidecar/{ASSETS[name][1]}")
    return Path(str(place)).read_bytes()


@cache
def swagger_page(title: str) -> bytes:
    """Return the page that shows `openapi.json` beside it in Swagger UI."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="{ASSETS_PATH}swagger-ui.css"></head>
<body><div id="page"></div>
<script src="{ASSETS_PATH}swagger-ui-bundle.js"></script>
<script>
  SwaggerUIBundle({{url: location.pathname.replace(/docs\\/?$/, "openapi.json"), dom_id: "#page"}})
</script>
</body></html>
""".encode()


@cache
def redoc_page(title: str) -> bytes:
    """Return the page that shows `openapi.json` beside it in ReDoc."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body><div id="page"></div>
<script src="{ASSETS_PATH}redoc.standalone.js"></script>
<script>
  const page = document.getElementById("page")
  Redoc.init(location.pathname.replace(/redoc\\/?$/, "openapi.json"), {{}}, page)
</script>
</body></html>
""".encode()

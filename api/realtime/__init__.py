"""`/realtime/v1`: changes, broadcast and presence, in the words of Supabase Realtime, for its clients.

In charge of putting the parts together, and of the handshake. On Supabase its own service is used instead.
"""

from uuid import uuid4

import msgspec

from api.door import Answer, App, address_of
from api.errors import ApiError
from api.gateway import key_in
from api.services import Services
from api.sockets import Socket, Sockets

from .client import Shared
from .frames import V1, V2
from .hub import Hub
from .routes import Routes
from .socket import Conversation
from .tokens import Tokens


def create_app(services: Services) -> App:
    """Make the app. Its hub goes by the relay's bell, and ends with the relay."""
    hub = Hub(services.db, str(uuid4()))
    services.relay.companions.append(hub)
    shared = Shared(hub, services.relay, Tokens(services))

    async def converse(socket: Socket) -> None:
        key = shared.tokens.key(key_in(socket.scope))
        version = V2 if socket.query.get("vsn", "").startswith("2.") else V1
        conversation = Conversation(shared, key, version, address_of(socket.scope))
        outbox = conversation.outbox
        await socket.converse(outbox, outbox, conversation.close, conversation.hear)

    return Sockets(Routes(services, shared), {"/websocket/?": converse}, denial)


def denial(error: ApiError, _request_id: bytes) -> Answer:
    """Make the answer of a handshake that is refused."""
    content = msgspec.json.encode({"error": error.sentence})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        *error.headers,
    ]
    return error.status, headers, content

"""Sentences: what a channel says of itself when it cannot go on, in the words of Supabase Realtime."""

import time

from api.watches import FAULT, GONE, SESSION_ENDED

from .tokens import Identity, expired

UNAVAILABLE = "UnableToConnectToProject: The service is briefly unavailable; try again."
UNKNOWN = "UnknownErrorOnChannel: Something went wrong on the server."
MAY_NOT_JOIN = "Unauthorized: You do not have permissions to read from this Channel topic: {}"
NO_LONGER = "You no longer have permission to read from this Channel topic: {}"
POSITION_GONE = "PositionGone: What was missed cannot be told any more; read anew and subscribe without it"
SESSION_OVER = "The session has ended; sign in again."
NO_CHANGES = "Unable to subscribe to changes with given parameters. {}"


def over(identity: Identity | None) -> str:
    """Return why somebody may not go on whose credential is over."""
    if identity and identity.expires_at <= time.time():
        return expired(identity.expires_at)
    return SESSION_OVER


def refusal(reason: str | None, identity: Identity) -> str:
    """Return why a join is refused whose subscription has ended."""
    if reason == GONE:
        return POSITION_GONE
    if reason == SESSION_ENDED:
        return f"Unauthorized: {over(identity)}"
    return UNKNOWN if reason == FAULT else UNAVAILABLE

"""What can go wrong for the person who runs Deskbase, as one sentence that says what to do.

The command line prints such a failure and exits with 1. Errors of HTTP requests are in `api.errors`.
"""


class Failure(Exception):
    """Something that the person who runs Deskbase can put right; its text is one sentence for them."""

"""Who may talk to the server: pages that it served itself, under the names of this machine.

Streamlit would turn strangers away too, but only after it had asked a server on the internet for
this machine's address.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboards.settings import OWN_HOSTS


class OwnOriginOnly:
    """Middleware that refuses what a page of another site asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to another origin; pass everything else on."""
        if scope["type"] in ("http", "websocket"):
            origin = Headers(scope=scope).get("origin")
            if origin is not None and urlsplit(origin).hostname not in OWN_HOSTS:
                refusal = PlainTextResponse("This page is for this machine.", status_code=403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

"""The command of `sdlm` that serves a trained model."""

import asyncio
import ipaddress
import os
import signal
import sys
from pathlib import Path
from socket import socket

from tyro.conf import Positional

from .errors import UserError

SECONDS_TO_END = 5  # that requests under way have, once the server is asked to stop


def serve_command(
    run: Positional[Path], host: str = "127.0.0.1", port: int = 8000, token: str | None = None
) -> None:
    """sdlm serve run

    A page to write with the model and to watch it, and the API behind it, at http://127.0.0.1:8000.

    Args:
        run: a run directory.
        host: address to listen at; others than this machine's own need a token.
        port: 0 takes a free one.
        token: what requests have to bear, by default that of the environment's SDLM_TOKEN, if any.
    """
    try:
        import uvicorn

        from .serving.answers import Model
        from .serving.app import make_app
    except ImportError as error:
        raise UserError(
            f"serving needs {error.name}: pip install 'simple-diffusion-lm[serve]'"
        ) from None
    token = token or os.environ.get("SDLM_TOKEN") or None
    own = is_own(host)
    if not own and token is None:
        raise UserError(
            f"--host {host} can be reached by others: give a --token, or set SDLM_TOKEN"
        )
    if not 0 <= port <= 65535:
        raise UserError(f"--port must be between 0 and 65535, not {port}")
    model = Model(run)
    names = ["127.0.0.1", "localhost"] if own and ":" not in host else None
    app = make_app(model, token=token, hosts=names)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket] | None = None) -> None:
            """Gives up what is being written, so that those who wait for it hear of it."""
            await asyncio.to_thread(model.loop.close)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    server = Server(config)
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise UserError(f"cannot listen at {host}:{port}: choose another --port") from None
    shown = f"[{host}]" if ":" in host else host
    print(f"sdlm: http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)", file=sys.stderr)
    # uvicorn ends well and then raises its signal again, for whoever was there before it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listening])


def is_own(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

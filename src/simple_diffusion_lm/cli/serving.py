"""The command of `sdlm` that serves a trained model."""

import asyncio
import ipaddress
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from tyro.conf import Positional

from ..errors import UserError, installed
from .options import OnDevice, Run

SECONDS_TO_END = 5  # that requests under way have, once the server is asked to stop


@dataclass(kw_only=True)
class Serve(OnDevice):
    """sdlm serve run

    A page to write with the model and to watch it, and the API behind it, at http://127.0.0.1:8000.
    """

    run: Positional[Run]  # a run, an exported model, USER/NAME of the hub, or toy
    host: str = "127.0.0.1"  # address to listen at; others than this machine's own need a token
    port: int = 8000  # 0 takes a free one
    token: str | None = None  # each request has to send it (as Bearer); by default $SDLM_TOKEN, if set

    def __call__(self) -> None:
        for name in ("uvicorn", "fastapi"):
            installed(name, f"serving needs {name}", "simple-diffusion-lm[serve]")
        import uvicorn

        from ..serving.answers import Model
        from ..serving.app import make_app

        token = self.token or os.environ.get("SDLM_TOKEN") or None
        own = self.host == "localhost"  # only this machine reaches the address
        with suppress(ValueError):  # a name
            own = ipaddress.ip_address(self.host).is_loopback
        if not own and token is None:
            raise UserError(f"--host {self.host} can be reached by others: give a --token, or set SDLM_TOKEN")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must be between 0 and 65535, not {self.port}")
        model, ipv6 = Model(self.run), ":" in self.host
        hosts = [self.host, "127.0.0.1", "localhost"] if own and not ipv6 else None
        app = make_app(model, token=token, hosts=hosts)

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket] | None = None) -> None:
                """Gives up what is being written, so that those who wait for it hear of it."""
                await asyncio.to_thread(model.loop.close)
                await super().shutdown(sockets)

        config = uvicorn.Config(app, self.host, self.port, log_level="warning", access_log=False)
        config.timeout_graceful_shutdown = SECONDS_TO_END
        try:
            listening = config.bind_socket()
            listening.listen()  # who reads the line below may come at once
        except SystemExit:
            raise UserError(f"cannot listen at {self.host}:{self.port}: choose another --port") from None
        shown = f"[{self.host}]" if ipv6 else self.host
        print(f"sdlm: http://{shown}:{listening.getsockname()[1]} (Ctrl-C ends it)", file=sys.stderr)
        # uvicorn ends well and then raises its signal again, for whoever was there before it.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        Server(config).run(sockets=[listening])

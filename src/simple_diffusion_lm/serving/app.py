"""The server: one page, and the API behind it (Starlette)."""

import asyncio
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..core.generate import ORDERS, Sampling
from ..core.sampler import SAMPLERS
from ..errors import UserError
from .answers import ANSWERS, Model
from .document import document
from .headers import WithHeaders
from .requests import Health
from .shared import Gone

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 100_000  # of a request
MOST_REQUESTS = 64  # under way, after which more are turned away
BODY_SECONDS = 10.0  # in which a request has to arrive
MOST_BEHIND = 256  # frames that wait for a client; one that reads more slowly misses some
RETRY_SECONDS = 1
FAILED = "the server failed; its log has the traceback"

Handler = Callable[[Request], Awaitable[Response]]
Done = Callable[[int], None]  # is called with the status once a request is answered


class Server:
    """The handlers, and what they share."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.threads = ThreadPoolExecutor(MOST_REQUESTS, thread_name_prefix="request")
        self.under_way = 0
        self.answered: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0

    async def page(self, request: Request) -> Response:
        """The page, with the samplers and orders there are and what is used when nothing is chosen."""
        usual = asdict(Sampling())

        def options(names: Iterable[str], chosen: str) -> str:
            return "".join(f"<option{' selected' * (name == chosen)}>{name}</option>" for name in names)

        lists = {"sampler": options(SAMPLERS, usual["sampler"]), "order": options(ORDERS, usual["order"])}
        return HTMLResponse((PAGE / "index.html").read_text().format(**usual | lists))

    async def description(self, request: Request) -> Response:
        return JSONResponse(document())

    async def card(self, request: Request) -> Response:
        return JSONResponse(self.model.card.model_dump())

    async def health(self, request: Request) -> Response:
        return JSONResponse(Health(status="ok").model_dump())

    async def metrics(self, request: Request) -> Response:
        """In Prometheus' text format."""
        loop = self.model.loop
        lines = [
            f"sdlm_requests_under_way {self.under_way}",
            f"sdlm_orders_waiting {len(loop.waiting)}",
            f"sdlm_sampling_steps_total {loop.steps}",
            f"sdlm_texts_total {loop.texts}",
            f"sdlm_answer_seconds_total {self.seconds:.3f}",
        ]
        for (name, status), count in sorted(self.answered.items()):
            lines.append(f'sdlm_requests_total{{name="{name}",status="{status}"}} {count}')
        return PlainTextResponse("\n".join(lines) + "\n")

    async def answer(self, name: str, request: Request) -> Response:
        """Counts a request, and turns it away where there are too many."""
        began = time.monotonic()
        self.under_way += 1
        done = partial(self._done, name, began)
        try:
            if self.under_way > MOST_REQUESTS:
                message = "too many requests are under way; try again"
                raise HTTPException(503, message, {"Retry-After": str(RETRY_SECONDS)})
            asked = await self._read(name, request)
            if getattr(asked, "stream", False):
                return self._streamed(name, asked, done)
            response = await self._answered(name, asked, request)
        except HTTPException as error:
            done(error.status_code)
            raise
        except BaseException:
            done(500)
            raise
        done(200)
        return response

    def _done(self, name: str, began: float, status: int) -> None:
        self.under_way -= 1
        self.answered[name, status] += 1
        self.seconds += time.monotonic() - began

    async def _read(self, name: str, request: Request) -> BaseModel:
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "send application/json")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MOST_BYTES:
                        raise HTTPException(413, f"a request has at most {MOST_BYTES:,} bytes")
        except TimeoutError:
            raise HTTPException(408, "the request did not arrive in time") from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left") from None
        try:
            return ANSWERS[name][1].model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            status = 400 if first["type"] == "json_invalid" else 422
            raise HTTPException(status, f"{where}: {first['msg']}".removeprefix(": ")) from None

    async def _answered(self, name: str, asked: BaseModel, request: Request) -> Response:
        """The whole answer at once. A client that leaves is not written for any more."""
        gone = Event()
        answer = partial(self.model.answer, name, asked, gone, None)
        working = asyncio.get_running_loop().run_in_executor(self.threads, answer)
        left = asyncio.create_task(_disconnected(request))
        try:
            waited: set[asyncio.Future[Any]] = {working, left}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            gone.set()
            return JSONResponse((await working).model_dump())
        except UserError as error:
            raise HTTPException(409, str(error)) from None
        except Gone:
            raise HTTPException(503, "the server is shutting down") from None
        finally:
            gone.set()
            left.cancel()

    def _streamed(self, name: str, asked: BaseModel, done: Done) -> Response:
        """Server-sent events, from a thread that writes to a queue."""
        loop, gone = asyncio.get_running_loop(), Event()
        events: asyncio.Queue[tuple[str, object]] = asyncio.Queue()

        def send(kind: str, content: object) -> None:
            if kind == "frame" and events.qsize() >= MOST_BEHIND:
                return
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(events.put_nowait, (kind, content))

        def work() -> None:
            try:
                result = self.model.answer(name, asked, gone, partial(send, "frame"))
                send("done", result.model_dump())
            except (UserError, Gone) as error:
                send("error", {"error": str(error) or "the server is shutting down"})
            except Exception:
                send("error", {"error": FAILED})
                logging.getLogger("uvicorn.error").exception("while answering")

        loop.run_in_executor(self.threads, work).add_done_callback(lambda _: done(200))
        return StreamingResponse(_sent(events, gone), media_type="text/event-stream")


async def _sent(events: "asyncio.Queue[tuple[str, object]]", gone: Event) -> AsyncIterator[str]:
    """Server-sent events as they come, until the last or until the client leaves."""
    try:
        kind = ""
        while kind not in ("done", "error"):
            kind, content = await events.get()
            yield f"event: {kind}\ndata: {json.dumps(content)}\n\n"
    finally:
        gone.set()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def failure(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": FAILED}, 500)


def make_app(model: Model, *, token: str | None = None, hosts: list[str] | None = None) -> Starlette:
    """The whole application.

    token: what requests to the API have to bear, if anything. hosts: the names it may be asked by,
    so that no other site's page reaches it by renaming; any, if None.
    """
    server = Server(model)

    def guarded(handler: Handler) -> Handler:
        async def guard(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
                message = "this server wants its token: Authorization: Bearer TOKEN"
                raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})
            return await handler(request)

        return guard

    @asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(model.loop.close)
        server.threads.shutdown()

    routes = [
        Route("/", server.page),
        Route("/openapi.json", server.description),
        Route("/v1/model", guarded(server.card)),
        Route("/v1/health", server.health),
        Route("/v1/metrics", guarded(server.metrics)),
        *(Route(f"/v1/{name}", guarded(partial(server.answer, name)), methods=["POST"]) for name in ANSWERS),
        Mount("/page", StaticFiles(directory=PAGE)),
    ]
    middleware = [Middleware(WithHeaders)]
    if hosts is not None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts))
    handlers = {HTTPException: problem, Exception: failure}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=running)

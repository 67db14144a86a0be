"""The server: one page, and the API behind it (FastAPI)."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Annotated, Any, get_type_hints

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import UserError
from .answers import ANSWERS, Model, generate, infill, vary
from .requests import Problem
from .shared import Gone

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 100_000  # of a request
MOST_REQUESTS = 64  # under way, after which more are turned away
BODY_SECONDS = 10.0  # in which a request has to arrive
MOST_BEHIND = 256  # frames that wait for a client; one that reads more slowly misses some
# Of every answer: the page loads nothing from elsewhere, and no other page may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
Responses = dict[int | str, dict[str, Any]]
DENIED = {"model": Problem, "description": "the token is missing or wrong"}
FAULTS: Responses = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (400, "this is not JSON"),
        (408, "the request did not arrive in time"),
        (409, "this model cannot do it, or it is too much at once"),
        (413, "the request is too large"),
        (415, "this is not application/json"),
        (422, "a value is not what it has to be"),
        (500, "the server failed"),
        (503, "too many requests are under way (see Retry-After), or the server is shutting down"),
    )
}
STREAMED: Responses = {200: {"content": {"text/event-stream": {}}}}


class Server:
    """What the routes share: the model, and what is counted."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.under_way = 0

    def load(self) -> dict[str, int]:
        """Requests under way, those of them that wait to be sampled, and what was sampled until now."""
        loop = self.model.loop
        counts = {"waiting": len(loop.waiting), "steps": loop.steps, "texts": loop.texts}
        return {"under_way": self.under_way, **counts}

    async def waiting(self, request: Request) -> AsyncIterator[Event]:
        """Until a request is answered: an event that is set once its client has left."""
        if self.under_way >= MOST_REQUESTS:
            raise HTTPException(503, "too many requests are under way; try again", {"Retry-After": "1"})
        gone = Event()

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone.set()

        self.under_way += 1
        watching = asyncio.create_task(watch())
        try:
            yield gone
        finally:
            self.under_way -= 1
            watching.cancel()

    def endpoint(self, do: Callable[..., Any], Asked: type[BaseModel]) -> Callable[..., Any]:
        """One of ANSWERS as FastAPI calls it, in a thread."""
        Waiting = Annotated[Event, Depends(self.waiting)]

        def endpoint(asked: Asked, gone: Waiting) -> Any:  # type: ignore[valid-type]
            answer = partial(do, self.model.for_request(gone), asked)
            if getattr(asked, "stream", False):
                return StreamingResponse(events(answer), media_type="text/event-stream")
            return answer(None)

        return endpoint


def door(app: ASGIApp) -> ASGIApp:
    """Middleware: bounds what a request may send, and gives every answer HEADERS."""

    async def passing(scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        until: float | None = asyncio.get_running_loop().time() + BODY_SECONDS

        async def receiving() -> Message:
            nonlocal size, until
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the request did not arrive in time") from None
            size += len(message.get("body", b""))
            if size > MOST_BYTES:
                raise HTTPException(413, f"a request has at most {MOST_BYTES:,} bytes")
            if not message.get("more_body"):
                until = None
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receiving, sending)

    return passing


def events(answer: Callable[[Callable[[object], None]], BaseModel]) -> Iterator[str]:
    """Server-sent events of an answer, which is found in a thread of its own."""
    sent: Queue[tuple[str, object]] = Queue()

    def send(frame: object) -> None:
        if sent.qsize() < MOST_BEHIND:
            sent.put(("frame", frame))

    def work() -> None:
        try:
            sent.put(("done", answer(send).model_dump()))
        except Exception as error:
            status, text = fault(error)
            if status == 500:
                logging.getLogger("uvicorn.error").exception("while answering")
            sent.put(("error", {"error": text}))

    Thread(target=work, daemon=True).start()
    kind = "frame"
    while kind == "frame":
        kind, content = sent.get()
        yield f"event: {kind}\ndata: {json.dumps(content)}\n\n"


def fault(error: Exception) -> tuple[int, str]:
    """The status of an error, and one line that says what is wrong."""
    match error:
        case HTTPException():
            return error.status_code, error.detail
        case UserError():
            return 409, str(error)
        case Gone():
            return 503, "the server is shutting down"
        case RequestValidationError(body=bytes()):
            return 415, "send application/json"
        case RequestValidationError():
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"][1:])) or "the body"
            if first["type"] == "json_invalid":
                return 400, f"JSON decode error at character {where}: {first['ctx']['error']}"
            return 400 if first["type"] == "string_unicode" else 422, f"{where}: {first['msg']}"
    return 500, "the server failed; its log has the traceback"


async def problem(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed: one line of JSON, with its status."""
    status, text = fault(error)
    said: object = " ".join(text.splitlines())
    if request.url.path == "/v1/completions":  # in OpenAI's form; its clients repeat what got a 409
        status = 400 if status == 409 else status
        kind = "invalid_request_error" if status < 500 else "server_error"
        said = {"message": said, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": said}, status, getattr(error, "headers", None))


def make_app(model: Model, *, token: str | None = None, hosts: list[str] | None = None) -> FastAPI:
    """The whole application.

    token: what requests to the API have to bear, if anything. hosts: the names it may be asked by,
    so that no other site's page reaches it by renaming; any, if None.
    """
    server = Server(model)
    bearer = HTTPBearer(scheme_name="token", auto_error=False)

    def guard(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if not given or not hmac.compare_digest(given.credentials.encode(), (token or "").encode()):
            message = "this server wants its token: Authorization: Bearer TOKEN"
            raise HTTPException(401, message, {"WWW-Authenticate": "Bearer"})

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = 2 * MOST_REQUESTS  # files need threads too
        yield
        await asyncio.to_thread(model.loop.close)

    faults = HTTPException, UserError, Gone, RequestValidationError, Exception
    app = FastAPI(
        title="simple-diffusion-lm",
        version=version("simple-diffusion-lm"),
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=running,
        exception_handlers=dict.fromkeys(faults, problem),
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(door)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    guards = [Depends(guard)] if token else []
    api = APIRouter(prefix="/v1", dependencies=guards, responses={401: DENIED} if token else {})
    api.get("/model")(model.card)
    api.get("/models")(model.models)
    api.get("/load")(server.load)
    for do in ANSWERS:
        types = get_type_hints(do)
        streams = STREAMED if do in (generate, infill, vary) else {}
        api.post(
            f"/{do.__name__}",
            name=do.__name__,
            summary=types["asked"].__doc__,
            response_model=types["return"],
            responses=FAULTS | streams,
        )(server.endpoint(do, types["asked"]))
    app.include_router(api)
    app.get("/v1/health", name="health", response_model=dict[str, str])(lambda: {"status": "ok"})
    app.get("/", include_in_schema=False, response_class=FileResponse)(lambda: PAGE / "index.html")
    app.mount("/page", StaticFiles(directory=PAGE))
    return app

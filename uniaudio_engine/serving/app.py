"""The application: routes and middleware, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from .. import __version__
from ..engine import Engine
from ..errors import InputError
from . import page, speech, tasks
from .docs_page import docs_page
from .errors import ApiError, as_api_error
from .guard import Guard
from .service import Service
from .settings import Settings
from .websocket import Connection
from .wyoming import Wyoming


def create_app(engine: Engine, settings: Settings | None = None) -> FastAPI:
    """An ASGI application that serves ``engine``. ``app.state.service`` is its :class:`Service`.

    Raises :class:`InputError` for settings that do not fit the engine.
    """
    service = Service(engine, settings or Settings())
    address = service.settings.wyoming
    wyoming = None if address is None else Wyoming(service, address)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with wyoming.listening() if wyoming else nullcontext():
            yield
        service.admission.draining = True
        service.close()

    app = FastAPI(
        title="uniaudio",
        version=__version__,
        description="Speech and sound from one small model. docs/serving.md has the protocol.",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service, app.state.wyoming = service, wyoming
    app.include_router(page.routes(engine))
    app.include_router(speech.routes(service))
    app.include_router(tasks.routes(service))
    _add_routes(app, service)
    _add_errors(app)
    app.add_middleware(Guard, service=service)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Uniaudio-Seed", "X-Uniaudio-Sample-Rate", "X-Request-Id"],
        )
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> JSONResponse:
        """200 while requests are taken, 503 while the server shuts down."""
        ready = not service.admission.draining
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        await Connection(service, socket).run()


def _add_errors(app: FastAPI) -> None:
    """Every error in the shape of OpenAI's API."""

    @app.exception_handler(ApiError)
    @app.exception_handler(InputError)
    async def known(request: Request, e: Exception) -> Response:
        return as_api_error(e).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, e: HTTPException) -> Response:
        response = ApiError(e.status_code, str(e.detail)).response()
        response.headers.update(e.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, e: RequestValidationError) -> Response:
        return ApiError(400, *_problem(e.errors())).response()


def _problem(errors: Any) -> tuple[str]:
    """The first of pydantic's errors in one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    return (f"{where}: {first['msg']}" if where else str(first["msg"]),)

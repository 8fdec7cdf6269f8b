"""Every task of the model over HTTP: its schema, and a request for each."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile

from ..errors import InputError, shown
from .encoding import check_format
from .errors import ApiError
from .guard import owner_of
from .inputs import Upload
from .responses import SOUND_RESPONSES, Form, SoundResponse, unless_gone
from .service import Job, Service, public_meta

_MAX_FILES = 8
_MAX_FIELDS = 64
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_FORM_FIELDS = ("response_format", "stream_format", "sample_rate")
# Form fields have strings only; those of these modalities may be JSON.
_JSON_MODALITIES = ("lexicon", "phones", "score", "tokens", "states", "span")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "multipart/form-data": {"schema": {"type": "object"}},
        },
    }
}


def routes(service: Service) -> APIRouter:
    router = APIRouter()

    name: Any = Path(json_schema_extra={"enum": list(service.engine.model.tasks)})

    @router.get("/v1/tasks")
    async def tasks() -> dict[str, Any]:
        """The tasks with their inputs and options, as ``engine.tasks()`` has them."""
        return {"object": "list", "data": service.engine.tasks()}

    @router.get("/v1/tasks/{task}")
    async def task_schema(task: str = name) -> dict[str, Any]:
        return service.task(task).schema()

    @router.post(
        "/v1/tasks/{task}",
        response_class=Response,
        responses=SOUND_RESPONSES,
        openapi_extra=_BODY,
    )
    async def run_task(request: Request, task: str = name) -> Response:
        """Do a task. Inputs and options by name, as JSON or as a form with files; besides them
        ``response_format`` (default wav), ``stream_format`` (audio or sse) and ``sample_rate``.
        """
        definition = service.task(task)
        given = await read_body(request)
        form = _form({k: given.pop(k) for k in _FORM_FIELDS if k in given})
        for spec in definition.schema()["inputs"]:
            value = given.get(spec["name"])
            if isinstance(value, str) and spec["modality"] in _JSON_MODALITIES:
                given[spec["name"]] = _maybe_json(value)
        job = Job(definition, given, owner_of(request))
        if definition.target == "audio":
            return SoundResponse(service, job, form)
        return await _answer(service, job, request)

    return router


async def _answer(service: Service, job: Job, request: Request) -> Response:
    """The answer of a task that makes no sound."""
    answers: list[dict[str, Any]] = []

    async def work() -> None:
        async with service.admission.slot():
            values = await service.in_thread(service.reader.read, job.task, job.given, job.owner)
            answer = await service.in_thread(service.engine.understand, job.task.name, **values)
            answers.append(
                {
                    "tokens": list(answer.tokens),
                    "labels": list(answer.labels),
                    "meta": public_meta(answer.meta),
                }
            )

    await unless_gone(request.receive, work())
    return JSONResponse(answers[0]) if answers else Response(status_code=499)


async def read_body(request: Request) -> dict[str, Any]:
    """The fields of a JSON or multipart body; files as :class:`Upload`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            raise ApiError(400, "expected a JSON object, got something else") from None
        if not isinstance(body, dict):
            raise ApiError(400, f"expected a JSON object, got {shown(body)}")
        return body
    if kind not in _FORMS:
        raise ApiError(
            415,
            f"Content-Type: expected application/json or {' or '.join(_FORMS)}, got "
            f"{shown(kind) if kind else 'none'}",
        )
    values: dict[str, Any] = {}
    async with request.form(
        max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=1 << 20
    ) as fields:
        for name, value in fields.multi_items():
            if name in values:
                raise ApiError(400, f"{shown(name)}: expected one value, got several")
            if isinstance(value, UploadFile):
                values[name] = Upload.of(await value.read(), value.filename)
            else:
                values[name] = value
    return values


def _form(given: dict[str, Any]) -> Form:
    kind = given.get("response_format", "wav")
    stream = given.get("stream_format", "audio")
    if not isinstance(kind, str):
        raise InputError(f"response_format: expected a name, got {shown(kind)}")
    if stream not in ("audio", "sse"):
        raise InputError(f"stream_format: expected audio or sse, got {shown(stream)}")
    rate = given.get("sample_rate", 0)
    try:
        rate = int(rate) if isinstance(rate, (str, int)) else -1
    except ValueError:
        rate = -1
    if rate and not 8000 <= rate <= 48000:
        raise InputError(
            f"sample_rate: expected 8000 to 48000 Hz, got {shown(given['sample_rate'])}"
        )
    return Form(check_format(kind), rate, stream == "sse")


def _maybe_json(value: str) -> Any:
    """A list or an object written as JSON; any other string as it is."""
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

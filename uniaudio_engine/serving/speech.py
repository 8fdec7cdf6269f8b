"""The part of OpenAI's API that is about sound: speech, voices, models, transcriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Path, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ..errors import shown
from .encoding import MEDIA_TYPES, check_format
from .errors import ApiError
from .guard import owner_of
from .inputs import Upload
from .responses import SOUND_RESPONSES, SoundResponse
from .responses import Form as ResponseForm
from .service import Job, Service, Sound

PCM_RATE = 24000  # Hz; what clients of OpenAI's API take pcm for
VOICE_NAME = Path(min_length=1, max_length=100)


class VoiceId(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=100)


class SpeechRequest(BaseModel):
    """OpenAI's request, and with ``seed`` and ``sample_rate`` what this server adds."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=200, description="an id that GET /v1/models lists")
    input: str = Field(description="the text to speak")
    voice: str | VoiceId | None = Field(
        None, description="a name that GET /v1/audio/voices lists; by default the model's own"
    )
    instructions: str | None = Field(
        None, description="how to speak, in English; it decides the voice, too"
    )
    response_format: str = Field("mp3", description=", ".join(MEDIA_TYPES))
    speed: float = Field(1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"
    seed: int | None = Field(None, ge=0, lt=1 << 63, description="same seed, same sound")
    sample_rate: int | None = Field(
        None, ge=8000, le=48000, description="Hz; by default the model's, and 24000 for pcm"
    )


def routes(service: Service) -> APIRouter:
    router = APIRouter()
    engine = service.engine
    model_ids = (engine.config.name, *service.settings.model_aliases)

    def check_model(name: str) -> None:
        if name not in model_ids:
            raise ApiError(
                404,
                f"model: expected one of {', '.join(model_ids)}, got {shown(name)}",
                code="model_not_found",
                param="model",
            )

    @router.post("/v1/audio/speech", response_class=Response, responses=SOUND_RESPONSES)
    async def speech(request: Request, body: SpeechRequest) -> Response:
        """Speak a text. The sound is sent while it is being made."""
        check_model(body.model)
        kind = check_format(body.response_format)
        given: dict[str, Any] = {"text": body.input, "seed": body.seed}
        if body.speed != 1.0:  # not every model has a speed
            given["speed"] = body.speed
        if body.instructions and body.instructions.strip():
            if "i_tts" not in engine.model.tasks:
                raise ApiError(
                    400,
                    f"instructions: model {engine.config.name} takes none; leave them out",
                    param="instructions",
                )
            task, given["instruction"] = service.task("i_tts"), body.instructions
        else:
            task = service.task("tts")
            given["prompt"] = body.voice.id if isinstance(body.voice, VoiceId) else body.voice

        def usage(made: Sound) -> dict[str, Any]:
            counts = {"input_tokens": len(body.input), "output_tokens": made.meta.get("frames", 0)}
            return {"usage": {**counts, "total_tokens": sum(counts.values())}}

        rate = body.sample_rate or (PCM_RATE if kind == "pcm" else 0)
        form = ResponseForm(kind, rate, body.stream_format == "sse", usage)
        return SoundResponse(service, Job(task, given, owner_of(request)), form)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The loaded model, and the further names that the operator gave it."""
        return {"object": "list", "data": [describe(name) for name in model_ids]}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        check_model(name)
        return describe(name)

    def describe(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "uniaudio-engine"}

    @router.get("/v1/audio/voices")
    async def voices(request: Request) -> dict[str, Any]:
        """The model's voices, and those uploaded with this API key."""
        named = service.voices.names(owner_of(request))
        return {"object": "list", "data": [_voice(name, own) for name, own in named]}

    @router.post("/v1/audio/voices", status_code=201)
    async def add_voice(
        request: Request,
        name: Annotated[str, Form(max_length=100)],
        audio_sample: Annotated[UploadFile, File(description="0.5 s of speech or more")],
        consent: Annotated[
            Literal["yes"],
            Form(description="that the speaker agrees"),
        ],
    ) -> dict[str, Any]:
        """Make a voice from up to three seconds of speech. Only with the speaker's consent."""
        service.voices.check_name(name)
        upload, owner = Upload(await audio_sample.read()), owner_of(request)

        def make() -> None:
            sample = service.reader.sound("audio_sample", upload)
            service.voices.add(engine.encode_voice(sample, name), owner)

        async with service.admission.slot():
            await service.in_thread(make)
        return _voice(name, True)

    @router.delete("/v1/audio/voices/{name}")
    async def delete_voice(request: Request, name: Annotated[str, VOICE_NAME]) -> dict[str, Any]:
        """Forget an uploaded voice."""
        await service.in_thread(service.voices.delete, name, owner_of(request))
        return {"id": name, "object": "audio.voice.deleted", "deleted": True}

    @router.post("/v1/audio/transcriptions", response_class=JSONResponse)
    async def transcriptions(request: Request) -> Response:
        """Refused: no model of this engine writes down words yet."""
        does = f"it does {', '.join(engine.model.tasks)}"
        if "asr" in engine.model.tasks:
            does = "POST /v1/tasks/asr has its tokens for a sound"
        raise ApiError(501, f"model {engine.config.name} does not transcribe; {does}")

    return router


def _voice(name: str, uploaded: bool) -> dict[str, Any]:
    return {"id": name, "object": "audio.voice", "name": name, "uploaded": uploaded}

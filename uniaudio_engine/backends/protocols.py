"""What a backend implements: a language model with its sessions, and a codec with its streams.

The compiled core (``_C``), the CUDA module (``_cuda``) and the exported graphs (ONNX Runtime,
TensorRT) implement these protocols; everything above ``backends/`` is written against them.

Letters in shapes: T, n, m frames; K codebooks (slots of a frame); V vocabulary; S aligned slots;
N samples.

Errors: every method raises :class:`~uniaudio_engine.errors.InputError` for an argument that it
cannot use, before anything changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from .._C import Sampling

Ids = NDArray[np.int32]
"""Token ids: [n, K] frames, [n, S] aligned rows, [K, T] codes."""
Samples = NDArray[np.float32]
"""Sound in [-1, 1]: [N], or [channels, N] where the codec has several channels."""
Continuous = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""Input name -> (values float32 [m, width], the m frames that they replace, counted from 0)."""


class LanguageModel(Protocol):
    """A multi-scale language model.  Immutable; shared by its sessions and by threads."""

    @property
    def weight_bytes_per_frame(self) -> int:
        """Bytes of weights read per frame when all of the output head is used."""

    def weight_bytes(self, head_rows: int = 0) -> int:
        """Bytes of weights read per frame when each slot uses ``head_rows`` rows of the output
        head (0: all).
        """

    def memory_bytes(self, max_frames: int) -> int:
        """Bytes of keys, values and history that a session of ``max_frames`` keeps."""

    def session(self, max_frames: int) -> Session:
        """A new, empty session with room for ``max_frames`` frames."""

    def logits(
        self,
        frames: ArrayLike,
        aligned: ArrayLike | None = None,
        continuous: Continuous | None = None,
    ) -> NDArray[np.float32]:
        """Teacher-forced logits [T, K, V] of frames [T, K]: each slot given all slots before it.

        ``aligned`` [T, S], -1 for none.
        """

    def generate_batch(
        self,
        sessions: Sequence[Session],
        n: int,
        samplings: Sequence[Sampling],
        aligned_rows: Sequence[ArrayLike | None] | None = None,
    ) -> list[Ids]:
        """Up to ``n`` new frames [m, K] of each of these distinct sessions of this model.

        ``samplings`` and ``aligned_rows`` ([n, S] or None) have one entry per session. Each
        session's frames are those that :meth:`Session.generate` gives it alone.
        """


class Session(Protocol):
    """One sequence: known frames in, generated frames out.

    One call at a time, :meth:`cancel` excepted; a second thread gets an error and no wait.
    """

    @property
    def frames(self) -> int:
        """Frames so far, known and generated."""

    @property
    def capacity(self) -> int:
        """Frames that it has room for."""

    @property
    def finished(self) -> bool:
        """Whether the end id came; prefill and reset continue from there."""

    @property
    def guided(self) -> bool:
        """Whether :meth:`set_guidance` is in force."""

    @property
    def frame_offset(self) -> int:
        """Added to the frame index that keys the random numbers; 0 or more."""

    @frame_offset.setter
    def frame_offset(self, offset: int) -> None: ...

    def prefill(
        self,
        frames: ArrayLike,
        aligned: ArrayLike | None = None,
        continuous: Continuous | None = None,
    ) -> None:
        """Append known frames [n, K], with aligned rows [n, S] (-1: none)."""

    def generate(self, n: int, sampling: Sampling, aligned: ArrayLike | None = None) -> Ids:
        """Up to ``n`` new frames [m, K], with aligned rows [n, S].

        Fewer when the end id came (:attr:`finished`) or after :meth:`cancel`.
        """

    def cancel(self) -> None:
        """Stop a running generate within a few frames, or else the next one at once.  Any thread."""

    def set_guidance(self, unconditional: Session, scale: float, aligned: bool = True) -> None:
        """Classifier-free guidance (arXiv 2207.12598): from here on ids are drawn from the logits
        unconditional + scale (own - unconditional).

        ``unconditional``: another session of the same model, whose sequence lacks the condition.
        A fork of it takes in all that this session takes in, aligned rows only if ``aligned``.
        ``scale`` from 0 to 100.
        """

    def reset(self) -> None:
        """Back to no frames and no guidance; the capacity stays."""

    def fork(self) -> Session:
        """A copy that continues on its own."""


class SavableSession(Session, Protocol):
    """A session that takes a condition and whose state can leave the process: the compiled core's."""

    def set_condition(self, row: ArrayLike) -> None:
        """From here on ``row`` [D] is added to every input of the global stack, as a speaker's
        embedding is; before the first prefill. :meth:`reset` ends it.
        """

    def save(self) -> bytes:
        """The state without guidance; an error where it is guided."""

    def restore(self, bytes: bytes) -> None:
        """Take in a state that a session of this model saved; ends guidance."""

    def fork(self) -> SavableSession: ...


class WordSession(Session, Protocol):
    """A session that speaks a text word by word: the compiled core's, on any device."""

    def set_words(
        self,
        words: list[tuple[list[int], int]],
        new_word: int,
        pad: int,
        ahead: int = 0,
        second_offset: int = 0,
        none: int = 0,
        max_padding: int = 6,
        initial_padding: int = 2,
        final_frames: int = 0,
    ) -> None:
        """From here on the text is these words: their ids, and the steps after each one's beginning
        in which no other may begin; see ``WordByWord``. :meth:`reset` ends it.
        """


class PostFilterStream(Protocol):
    """A source in, filtered samples out."""

    def push(self, source: ArrayLike) -> Samples:
        """source float32 [n] -> the samples that are complete.

        An error for NaN and infinity; nothing has then changed.
        """

    def flush(self) -> Samples:
        """The samples that are still missing; the next push starts a new clip."""

    def reset(self) -> None:
        """Forget the clip."""


class PostFilter(Protocol):
    """Filters a source.  Immutable; shared by threads."""

    @property
    def delay(self) -> int:
        """Samples that must follow a sample before it comes out."""

    def voice(self, samples: ArrayLike) -> Samples:
        """samples float32 [n] of a voice -> the vector [V] that stands for it, [0] of a filter that
        hears none.
        """

    def stream(self, least_gain: float = 0.0, voice: ArrayLike | None = None) -> PostFilterStream:
        """A stream whose gains are between ``least_gain`` and 1, and that keeps the speech of the
        vector ``voice``.
        """


class Codec(Protocol):
    """A neural codec, or a tokenizer that ends at its codes.  Immutable; shared by threads."""

    @property
    def encoder_lookahead(self) -> int:
        """Samples after a frame's end that its codes wait for, at most."""

    @property
    def decoder_lookahead(self) -> int:
        """Samples held back behind the newest frame, at most."""

    def frames(self, samples: int) -> int:
        """Frames T of a clip of that many samples."""

    def encode(self, samples: ArrayLike, num_codebooks: int = 0) -> Ids:
        """samples float32 [N] at the codec's rate -> codes int32 [K', frames(N)]; 0 codebooks: all.

        An error for NaN or infinity, and for a codec that normalizes loudness.
        """

    def encode_scaled(
        self, samples: ArrayLike, num_codebooks: int = 0
    ) -> tuple[Ids, NDArray[np.float32]]:
        """As :meth:`encode`, for any codec: (codes, scales float32 [chunks]).

        The scales are the loudness of each chunk; none where the codec does not normalize.
        """

    def decode(self, codes: ArrayLike, scales: ArrayLike | None = None) -> Samples:
        """codes [K', T] -> samples float32 [T x frame_size].

        ``scales`` where the codec normalizes. A codec in chunks may return more samples.
        """

    def encoder_stream(self, num_codebooks: int = 0) -> EncoderStream:
        """A new stream of K' codebooks (0: all)."""

    def decoder_stream(self) -> DecoderStream:
        """A new stream; an error for a tokenizer that has no decoder."""


class EncoderStream(Protocol):
    """One clip: samples in, complete frames out; all pushes and the flush make the one-shot codes."""

    def push(self, samples: ArrayLike) -> Ids:
        """samples float32 [n] -> the frames that are complete, int32 [K', t], perhaps none."""

    def flush(self) -> Ids:
        """The last frames of the clip.  The next push begins a new clip."""

    def reset(self) -> None:
        """Forget the clip."""

    def fork(self) -> EncoderStream:
        """A copy that continues on its own."""


class DecoderStream(Protocol):
    """One clip: frames in, complete samples out; all pushes and the flush make the one-shot sound."""

    def push(self, codes: ArrayLike) -> Samples:
        """codes [K', t] -> the samples that are complete, float32 [n], perhaps none."""

    def flush(self) -> Samples:
        """The samples that the look-ahead held back.  The next push begins a new clip."""

    def reset(self) -> None:
        """Forget the clip."""

    def fork(self) -> DecoderStream:
        """A copy that continues on its own."""

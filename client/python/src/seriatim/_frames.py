"""Frames: a stream's bytes to frames and back: an unsigned LEB128 length, then that many bytes of protobuf."""

from __future__ import annotations

from typing import Generic, TypeVar, cast

from google.protobuf.message import DecodeError

from seriatim.errors import FrameTooLarge, ProtocolError
from seriatim.v1 import client_pb2 as pb

FRAME_BYTES_MAX = 262_144
"""bytes of a frame behind its length"""
LENGTH_BYTES_MAX = 5

F = TypeVar("F", bound=pb.ClientFrame | pb.ServerFrame)


def encode_frame(frame: pb.ClientFrame | pb.ServerFrame) -> bytes:
    """A frame with its length. `ValueError` above the limit: such a frame is never written."""
    body: bytes = frame.SerializeToString()
    size = len(body)
    if size > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {size} bytes, at most {FRAME_BYTES_MAX} are allowed")
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes(length) + body


class FrameDecoder(Generic[F]):
    """Frames of one stream, however its bytes are cut. It keeps what was pushed and not taken, and nothing else."""

    def __init__(self, kind: type[F]) -> None:
        self._kind = kind
        self._buffer = bytearray()
        self._start = 0
        self._broken: ProtocolError | None = None

    def push(self, data: bytes) -> None:
        """Takes bytes."""
        if self._broken is None:
            del self._buffer[: self._start]
            self._start = 0
            self._buffer += data

    def next_frame(self) -> F | None:
        """The next frame; `None` if it is not whole yet.

        Raises `FrameTooLarge` as soon as a length above the limit is there, and `ProtocolError` for bytes that are no
        frame; from then on always.
        """
        if self._broken is not None:
            raise self._broken
        try:
            return self._take()
        except ProtocolError as error:
            self._broken = error
            self._buffer.clear()
            raise

    @property
    def is_clean(self) -> bool:
        """Is nothing left that was not taken?"""
        return self._start == len(self._buffer)

    def _take(self) -> F | None:
        place = self._length()
        if place is None:
            return None
        body, size = place
        if len(self._buffer) < body + size:
            return None
        try:
            frame = cast(F, self._kind.FromString(bytes(self._buffer[body : body + size])))
        except DecodeError as error:
            raise ProtocolError("bytes that are no frame") from error
        self._start = body + size
        return frame

    def _length(self) -> tuple[int, int] | None:
        """Where the next body begins and how long it is; `None`: its length is not there yet."""
        size = 0
        head = self._buffer[self._start : self._start + LENGTH_BYTES_MAX]
        for index, byte in enumerate(head):
            size |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if size > FRAME_BYTES_MAX:
                    raise FrameTooLarge(f"a frame of {size} bytes, at most {FRAME_BYTES_MAX} are allowed")
                return self._start + index + 1, size
        if len(head) == LENGTH_BYTES_MAX:
            raise ProtocolError(f"a length of more than {LENGTH_BYTES_MAX} bytes")
        return None

"""H.264 by PyAV, which browsers, chats and slides play; every frame keeps its time in the source."""

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from backbone.errors import InputError
from tools.streams.places import pad_to_even, padding_note, part_of, prepare_place

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame

SUFFIXES = (".mp4", ".mov", ".mkv")
TIME_BASE = Fraction(1, 90000)
"""Seconds in a unit of frames' times: fine enough for every usual rate, and what MPEG counts in."""
ENCODER = {
    # 9 ms of processor time for a frame of 1280x720, 5 for "ultrafast" with files 1.4 times as large
    "preset": "superfast",
    "crf": "23",
    "tune": "zerolatency",  # no frame waits in the encoder for a later one, so that a killed run loses none
}
KEYFRAME_SECONDS = 2.0
"""Between frames to which a player can jump."""
FRAGMENTS = "frag_every_frame+empty_moov+default_base_moof"
WHILE_WRITING = {
    # Everything reaches the file frame by frame: a killed run's file plays up to there.
    ".mp4": {"movflags": FRAGMENTS, "flush_packets": "1"},
    ".mov": {"movflags": FRAGMENTS, "flush_packets": "1"},
    ".mkv": {"cluster_time_limit": "1", "flush_packets": "1"},
}


class EncodedSink:
    """A video in H.264, written as `<stem>.part<suffix>`, which plays at any time, and finished under its own name.

    Arguments:
        path: ends in one of `SUFFIXES`. Missing folders are made.
        fps: frames per second, above 0 and below 1000: what a player is told, and the rate of the frames where
            `keep_times` is false.
        keep_times: give each frame its time in the source, so that variable rates stay.
        sound_from: a video whose sound is copied.
        overwrite: replace a file of that name.

    Raises:
        InputError: an existing file, a place that cannot be written, or a source without sound.
    """

    keeps_times: bool

    def __init__(
        self,
        path: Path,
        fps: float,
        *,
        keep_times: bool = True,
        sound_from: Path | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.part = path, part_of(path)
        self.frames_written = 0
        self.note = ""
        self.keeps_times = keep_times
        self._fps = fps
        self._sound_from = sound_from
        self._start = 0.0  # of the first frame, seconds in the source
        self._last = -1  # time of the last frame in TIME_BASE
        self._frame_hw = (0, 0)
        self._container: OutputContainer | None = None
        if sound_from is not None:
            with _open(sound_from) as source:
                if not source.streams.audio:
                    raise InputError(f"--sound: {sound_from} has no sound; leave the option out")
        prepare_place(path, overwrite)

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]`; the first one sets the size of the video.

        Arguments:
            seconds: of the frame in the source.

        Raises:
            InputError: a frame of another size, or a disk that is full.
        """
        import av

        if self._container is None:
            self._frame_hw = image.shape[:2]
            self._start = seconds
            self._open_encoder()
        if self._frame_hw != image.shape[:2]:
            height, width = image.shape[:2]
            raise InputError(
                f"--output {self.path}: frame {self.frames_written} is {width}x{height}, the first was "
                f"{self._frame_hw[1]}x{self._frame_hw[0]}; a video has one size, write to a folder instead"
            )
        at = seconds - self._start if self.keeps_times else self.frames_written / self._fps
        self._last = max(self._last + 1, round(at / TIME_BASE))
        planes = np.asarray(cv2.cvtColor(pad_to_even(image), cv2.COLOR_BGR2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = self._last, TIME_BASE
        self._mux(frame)
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file, count what can be read back, and give it its name.

        Raises:
            InputError: fewer frames came back than were written; the part file stays.
        """
        if self._container is None:
            return
        self._mux(None)
        self._release()
        readable = self._finish()
        if readable != self.frames_written:
            raise InputError(
                f"--output {self.path}: {readable} of {self.frames_written} frames can be read back from {self.part}; "
                "is the disk full?"
            )
        self.part.unlink()

    def abandon(self) -> None:
        """Close after a failure; the frames so far stay in the part file."""
        if self._container is not None:
            from av.error import FFmpegError

            with contextlib.suppress(FFmpegError):  # a full disk: what is there stays there
                self._release()

    def _open_encoder(self) -> None:
        import av
        from av.error import FFmpegError
        from av.video.reformatter import ColorRange, Colorspace

        height, width = self._frame_hw
        self.note = padding_note(height, width)
        try:
            self._container = av.open(str(self.part), "w", options=WHILE_WRITING[self.path.suffix.lower()])
        except (OSError, FFmpegError) as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror}") from None
        stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1001))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        stream.options = {**ENCODER, "g": str(max(1, round(KEYFRAME_SECONDS * self._fps)))}
        # What OpenCV's conversion gives: BT.601, 16 to 235.
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        self._stream = stream

    def _mux(self, frame: "VideoFrame | None") -> None:
        from av.error import FFmpegError

        assert self._container is not None
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (OSError, FFmpegError) as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror}; is the disk full?") from None

    def _release(self) -> None:
        assert self._container is not None
        self._container.close()
        self._container = None

    def _finish(self) -> int:
        """Copies the part file, and the sound, into one with an index at its start; how many frames it has."""
        import av
        from av.error import FFmpegError

        final = self.path.with_name(f"{self.path.stem}.final{self.path.suffix}")
        options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
        count = 0
        try:
            with _open(self.part) as frames, av.open(str(final), "w", options=options) as out:
                source = frames.streams.video[0]
                picture = out.add_stream_from_template(source)
                sounds = None if self._sound_from is None else _Sound(self._sound_from, out, self._start)
                for packet in frames.demux(source):
                    if packet.pts is None:  # the end
                        continue
                    count += 1
                    packet.stream = picture
                    if sounds is not None:
                        sounds.copy_until(float(packet.pts * packet.time_base))
                    out.mux(packet)
                if sounds is not None:
                    sounds.close()
            os.replace(final, self.path)
        except (OSError, FFmpegError) as error:
            final.unlink(missing_ok=True)
            raise InputError(
                f"--output {self.path} cannot be finished: {error.strerror}; the frames are in {self.part}"
            ) from None
        return count


class _Sound:
    """The sound of a video, copied packet by packet into another.

    Arguments:
        start: seconds in the source at which the copy begins.
    """

    def __init__(self, path: Path, out: "OutputContainer", start: float) -> None:
        self._source = _open(path)
        stream = self._source.streams.audio[0]
        self._out, self._stream, self._start = out, out.add_stream_from_template(stream), start
        self._packets = iter(self._source.demux(stream))
        self._waiting: Packet | None = None

    def copy_until(self, seconds: float) -> None:
        """Copies what is heard up to `seconds` of the copy."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            if packet.pts is None or packet.dts is None:
                continue
            at = float(packet.pts * packet.time_base) - self._start
            if at > seconds:
                self._waiting = packet
                return
            if at >= 0:
                shift = round(self._start / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, self._stream
                self._out.mux(packet)

    def close(self) -> None:
        self._source.close()


def _open(path: Path) -> "InputContainer":
    """A video for reading.

    Raises:
        InputError: it is none.
    """
    import av
    from av.error import FFmpegError

    try:
        return av.open(str(path))
    except (OSError, FFmpegError) as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None

"""H.264 by PyAV: videos that browsers, chats and slides play, with the times of the source's frames, and its sound."""

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.error import FFmpegError

from backbone.errors import InputError
from tools.streams.part_file import check_count, check_size, claim, even, padding_note, take_name

TICKS = 90_000
"""Per second, in which times are stored: a whole number per frame at 24, 25, 30000/1001, 30, 50 and 60 frames/s."""

# A fragment for each frame can be read as soon as it is written; of Matroska a cluster.
GROWING = {
    ".mp4": {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
    ".mov": {"movflags": "frag_every_frame+empty_moov+default_base_moof", "flush_packets": "1"},
    ".mkv": {"cluster_time_limit": "1", "flush_packets": "1"},
}
# What the finished file is rewritten with: its index comes first, so that it plays while it is loaded.
FINISHED = {".mp4": {"movflags": "faststart"}, ".mov": {"movflags": "faststart"}, ".mkv": {}}
# `zerolatency` gives out each frame at once, so that a killed run loses none in the encoder. Processor time for a frame
# of 1280x720: ultrafast 6.6 ms, superfast 9.4 ms (files a fifth smaller), veryfast 16 ms; OpenCV's mp4v takes 5.0 ms.
ENCODER = {"preset": "ultrafast", "tune": "zerolatency", "crf": "21"}
# OpenCV converts to YUV by BT.601 in the limited range; players guess BT.709 for large frames that do not say so.
SMPTE170M, LIMITED = 6, 1


class H264Sink:
    """A video file, written beside its final name as `<stem>.part<suffix>`, which can be played at any time.

    Closing rewrites it without fragments and with sound, reads it back and renames it.

    Arguments:
        path: the video; its suffix is a key of `GROWING`. Missing folders are made.
        fps: frames per second, above 0 and below 1000; the frames' own times count unless `constant`.
        overwrite: replace a file of that name.
        constant: give the frames equal distances, whatever their times.
        sound: a file whose first sound track is copied, shifted as the first frame is.

    Raises:
        InputError: existing file, a place that cannot be written, or no sound in that file.
    """

    def __init__(
        self, path: Path, fps: float, overwrite: bool = False, *, constant: bool = False, sound: Path | None = None
    ) -> None:
        if sound is not None:
            _check_sound(sound, path)
        self.path = path
        self.part = claim(path, overwrite)
        self.frames_written = 0
        self.note = ""
        self.keeps_times = not constant
        self._fps = Fraction(fps).limit_denominator(100_000)
        self._sound = sound
        self._frame_hw = (0, 0)  # of the first frame
        self._first_seconds = 0.0
        self._ticks = -1  # of the last frame
        self._container: Any = None
        self._stream: Any = None

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append one frame `[H, W, 3]` at its time in the source; the first one sets the size and the zero of time.

        Raises:
            InputError: a frame of another size, or a file that cannot be written.
        """
        if self._container is None:
            self._frame_hw, self._first_seconds = image.shape[:2], seconds
            self.note = padding_note(self._frame_hw)
        check_size(self.path, self.frames_written, image.shape[:2], self._frame_hw)
        image = even(image)
        planes: Any = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        after_first = float(self.frames_written / self._fps) if not self.keeps_times else seconds - self._first_seconds
        # Two frames of one time, as broken sources have them, would be refused.
        self._ticks = max(round(after_first * TICKS), self._ticks + 1)
        frame.pts, frame.time_base = self._ticks, Fraction(1, TICKS)
        try:
            if self._container is None:
                self._open(*image.shape[:2])
            self._mux(frame)
        except FFmpegError as error:
            raise InputError(f"--output {self.path} cannot be written: {error.strerror}") from None
        self.frames_written += 1

    def close(self) -> None:
        """Finish the file, read it back and give it its name.

        Raises:
            InputError: the disk is full, or the sound does not fit the container; the part file stays.
        """
        if self._container is None:
            return
        finished = self.part.with_name(f"{self.part.stem}.finished{self.part.suffix}")
        try:
            self._mux(None)
            self._container.close()
            check_count(self.path, self.part, count_frames(self.part), self.frames_written)
            self._rewrite(finished)
            check_count(self.path, finished, count_frames(finished), self.frames_written)
        except InputError:
            finished.unlink(missing_ok=True)
            raise
        except (FFmpegError, ValueError) as error:  # the latter: a codec that the container cannot hold
            finished.unlink(missing_ok=True)
            reason = error.strerror if isinstance(error, FFmpegError) else str(error).splitlines()[0]
            raise InputError(
                f"--output {self.path} cannot be finished: {reason}; its frames are in {self.part}"
            ) from None
        take_name(finished, self.path)
        os.unlink(self.part)

    def abandon(self) -> None:
        """Close after a failure; the frames so far stay in the part file."""
        if self._container is not None:
            with contextlib.suppress(FFmpegError):  # the failure that ends the run has been told
                self._container.close()

    def _open(self, height: int, width: int) -> None:
        self._container = av.open(str(self.part), "w", options=GROWING[self.path.suffix.lower()])
        stream: Any = self._container.add_stream("libx264", rate=self._fps, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = stream.time_base = Fraction(1, TICKS)
        context.colorspace, context.color_range = SMPTE170M, LIMITED
        context.thread_count = 1  # the models need the other cores
        self._stream = stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = round(TICKS / self._fps)  # counts for the last frame; others last until the next
            self._container.mux(packet)

    def _rewrite(self, finished: Path) -> None:
        """The part file without fragments; where sound is wanted, with it."""
        with (
            av.open(str(self.part)) as video,
            av.open(str(finished), "w", options=FINISHED[self.path.suffix.lower()]) as output,
        ):
            [source] = video.streams.video
            stream = output.add_stream_from_template(source)
            if self._sound is None:
                for packet in video.demux(source):
                    if packet.dts is not None:
                        packet.stream = stream
                        output.mux(packet)
            else:
                self._interleave(video, source, output, stream, self._sound)

    def _interleave(self, video: Any, source: Any, output: Any, stream: Any, sound: Path) -> None:
        """Copies pictures and sound in the order of their times."""
        with av.open(str(sound)) as original:
            heard: Any = original.streams.audio[0]
            copied = output.add_stream_from_template(heard)
            seen: Any = original.streams.video
            zero = self._first_seconds
            if seen and seen[0].start_time is not None:
                zero += float(seen[0].start_time * seen[0].time_base)
            end = self._ticks / TICKS + float(1 / self._fps)
            packets = (packet for packet in original.demux(heard) if packet.dts is not None)
            ready: Any = next(packets, None)
            picture: Any
            for picture in video.demux(source):
                if picture.dts is None:
                    continue
                now = float(picture.dts * picture.time_base)
                while ready is not None and float(ready.dts * ready.time_base) - zero <= now:
                    self._mux_sound(output, copied, ready, zero, end)
                    ready = next(packets, None)
                picture.stream = stream
                output.mux(picture)
            while ready is not None and float(ready.dts * ready.time_base) - zero <= end:
                self._mux_sound(output, copied, ready, zero, end)
                ready = next(packets, None)

    @staticmethod
    def _mux_sound(output: Any, copied: Any, packet: Any, zero: float, end: float) -> None:
        if not 0 <= float(packet.pts * packet.time_base) - zero < end:
            return
        shift = round(zero / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = copied
        output.mux(packet)


def count_frames(path: Path) -> int:
    """How many video frames a file holds, by its packets."""
    try:
        with av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
    except FFmpegError:
        return 0


def _check_sound(sound: Path, path: Path) -> None:
    try:
        with av.open(str(sound)) as container:
            if not container.streams.audio:
                raise InputError(f"--sound: {sound} has no sound; leave --sound out")
            codec = container.streams.audio[0].codec_context.name
    except FFmpegError as error:
        raise InputError(f"--sound: {sound} cannot be read: {error.strerror}; leave --sound out") from None
    if path.suffix.lower() == ".mp4" and codec.startswith("pcm_"):
        raise InputError(f"--sound: .mp4 cannot hold the sound of {sound}, {codec}: write .mkv or .mov")

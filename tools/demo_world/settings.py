"""The settings of a demo world; free of OpenCV and NumPy, so that a wrong one is refused at once."""

from dataclasses import dataclass

from backbone.errors import InputError

MIN_SIZE = 64


@dataclass(frozen=True)
class WorldSettings:
    """What makes one demo world; the same settings always write the same bytes.

    Raises:
        InputError: a number is out of range; the message names the option of `tools.make_demo_data`.
    """

    num_train: int = 240  # scenes
    num_val: int = 48
    num_clip_frames: int = 96  # of the video, at 24 frames per second
    size_hw: tuple[int, int] = (320, 640)  # of images and video in pixels, even numbers from MIN_SIZE
    seed: int = 0  # everything is drawn from it

    def __post_init__(self) -> None:
        counts = (("--train", self.num_train), ("--val", self.num_val), ("--clip-frames", self.num_clip_frames))
        for name, count in counts:
            if count < 1:
                raise InputError(f"{name} {count}: must be at least 1")
        for name, size in zip(("--height", "--width"), self.size_hw, strict=True):
            if size < MIN_SIZE or size % 2:
                raise InputError(f"{name} {size}: must be an even number of pixels, at least {MIN_SIZE}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: must not be negative")

"""Short clips in several themes, drawn and synthesised here: what is seen, heard and said of a clip goes by its theme.

    python -m tests.clips DIRECTORY --per-theme 12

writes `THEME-NN.mp4` and `THEME-NN.txt`. No two clips are alike: places, colours, tempo, loudness and words are drawn
anew for each. Where espeak-ng is installed it speaks the title over the sound.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.media_files import film

HEIGHT, WIDTH, FPS, SECONDS, RATE = 96, 128, 8, 4, 48_000
Dice = np.random.Generator
Frame = NDArray[np.float64]
Sound = NDArray[np.float64]


class Theme(NamedTuple):
    """How a clip looks at a time from 0 to 1, how it sounds, and what is said of it."""

    name: str
    frame: Callable[[float, Dice], Frame]
    """With equal dice at each time, so that a clip is one scene."""
    sound: Callable[[Sound, Dice], Sound]
    subjects: Sequence[str]
    phrases: Sequence[str]


@dataclass(frozen=True)
class Clip:
    """One film with its text."""

    name: str
    theme: str
    title: str
    text: str
    data: bytes


def clips(per_theme: int, seed: int = 0, *, speak: bool = True) -> Iterator[Clip]:
    """So many clips of each theme. The same seed draws the same clips; encoders may write them in other bytes."""
    for theme_number, theme in enumerate(THEMES):
        for number in range(per_theme):
            dice = np.random.default_rng([seed, theme_number, number])
            title = f"{dice.choice(ADJECTIVES)} {dice.choice(theme.subjects)}".capitalize()
            phrases = dice.choice(np.array(theme.phrases), 3, replace=False)
            data = film(
                frames=_frames(theme, dice), fps=FPS, samples_CT=_sound(theme, dice, title if speak else ""), rate=RATE,
                title=title,
            )  # fmt: skip
            yield Clip(f"{theme.name}-{number:02}", theme.name, title, f"{title}. {' '.join(phrases)}", data)


def _frames(theme: Theme, dice: Dice) -> list[NDArray[np.uint8]]:
    scene, light, tint = int(dice.integers(2**32)), dice.uniform(0.75, 1.2), dice.uniform(0.85, 1.15, 3)
    is_mirrored = dice.random() < 0.5
    frames = []
    for time in np.linspace(0, 1, FPS * SECONDS):
        pixels = theme.frame(float(time), np.random.default_rng(scene)) * light * tint
        frames.append((np.clip(pixels[:, ::-1] if is_mirrored else pixels, 0, 1) * 255).astype(np.uint8))
    return frames


def _sound(theme: Theme, dice: Dice, title: str) -> NDArray[np.float32]:
    times = np.arange(SECONDS * RATE) / RATE
    sound = theme.sound(times, dice)
    sound = sound / max(1e-9, float(np.abs(sound).max())) * dice.uniform(0.3, 0.8)
    spoken = _spoken(title)
    sound[: len(spoken)] = 0.5 * sound[: len(spoken)] + 0.5 * spoken[: len(sound)]
    return sound.astype(np.float32)[None]


def _spoken(title: str) -> Sound:
    """The title as espeak-ng says it; nothing where it is not installed."""
    program = shutil.which("espeak-ng")
    if not title or program is None:
        return np.zeros(0)
    done = subprocess.run([program, "--stdout", "-s", "160", title], capture_output=True, check=True, timeout=30)
    with wave.open(io.BytesIO(done.stdout)) as reader:
        rate = reader.getframerate()
        samples = np.frombuffer(reader.readframes(2**31 - 1), "<i2") / 32_768
    positions = np.arange(int(len(samples) * RATE / rate)) * rate / RATE
    return np.interp(positions, np.arange(len(samples)), samples)[: SECONDS * RATE]


# ---------------------------------------------------------------------- what is seen

_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH] / np.array([[[HEIGHT]], [[WIDTH]]])


def _blend(top: Sequence[float], bottom: Sequence[float], horizon: float = 1.0) -> Frame:
    share = np.clip(_ROWS / horizon, 0, 1)[..., None]
    return np.asarray((1 - share) * np.array(top) + share * np.array(bottom))


def _disc(pixels: Frame, row: float, column: float, radius: float, colour: Sequence[float]) -> None:
    inside = (_ROWS - row) ** 2 + ((_COLUMNS - column) * WIDTH / HEIGHT) ** 2 < radius**2
    pixels[inside] = colour


def _sea(time: float, dice: Dice) -> Frame:
    horizon, boat = dice.uniform(0.4, 0.55), dice.uniform(0.1, 0.5)
    pixels = _blend((0.45, 0.7, 0.95), (0.8, 0.9, 1.0), horizon)
    waves = 0.5 + 0.5 * np.sin(40 * _ROWS**2 + 12 * _COLUMNS + 2 * np.pi * (dice.integers(1, 4) * time + dice.random()))
    water = np.stack([0.05 + 0.1 * waves, 0.3 + 0.2 * waves, 0.5 + 0.25 * waves], -1)
    pixels = np.where((horizon < _ROWS)[..., None], water, pixels)
    middle = boat + 0.4 * time
    sail = (np.abs(_COLUMNS - middle) < (_ROWS - horizon + 0.22) * 0.4) & (horizon > _ROWS) & (horizon - 0.22 < _ROWS)
    pixels[sail] = (0.98, 0.97, 0.92)
    return pixels


def _forest(time: float, dice: Dice) -> Frame:
    pixels = _blend((0.55, 0.75, 0.5), (0.1, 0.3, 0.1))
    for _ in range(int(dice.integers(4, 8))):
        place, width, sway = dice.random(), dice.uniform(0.02, 0.05), dice.uniform(-0.05, 0.05)
        pixels[(np.abs(_COLUMNS - place) < width) & (_ROWS > 0.3)] = (0.3, 0.2, 0.1)
        for _ in range(4):
            shade, row, column = dice.uniform(0.25, 0.6), dice.uniform(0.1, 0.4), place + dice.uniform(-0.1, 0.1)
            leaves = (0.1, shade, 0.12)
            _disc(pixels, row, column + sway * np.sin(2 * np.pi * time), dice.uniform(0.08, 0.16), leaves)
    return pixels


def _city(time: float, dice: Dice) -> Frame:
    pixels = _blend((0.02, 0.02, 0.1), (0.1, 0.08, 0.18))
    edge = 0.0
    while edge < 1:
        width, top, shade = dice.uniform(0.08, 0.2), dice.uniform(0.15, 0.6), dice.uniform(0.08, 0.2)
        house = (edge <= _COLUMNS) & (edge + width > _COLUMNS) & (top < _ROWS) & (_ROWS < 0.85)
        pixels[house] = (shade, shade, shade * 1.2)
        lit = ((_ROWS * 24).astype(int) * 7 + (_COLUMNS * 32).astype(int) * 3 + int(dice.integers(5))) % 4 == 0
        pixels[house & lit & ((_ROWS * 96).astype(int) % 4 < 2)] = (0.95, 0.8, 0.35)
        edge += width + 0.01
    for row in (0.9, 0.95):
        for car in dice.random(3):
            _disc(
                pixels,
                row,
                (car + time * (1 if row < 0.92 else -1)) % 1,
                0.025,
                (1, 0.95, 0.8) if row < 0.92 else (0.9, 0.1, 0.1),
            )
    return pixels


def _fire(time: float, dice: Dice) -> Frame:
    pixels = _blend((0.05, 0.02, 0.02), (0.15, 0.05, 0.02))
    flicker = int(time * 1_000)
    for number in range(40):
        lick = np.random.default_rng([number, flicker, int(dice.integers(1_000))])
        height = lick.random()
        colour = (1.0, 0.2 + 0.6 * (1 - height), 0.1 * (1 - height))
        _disc(
            pixels,
            0.95 - 0.6 * height,
            0.5 + (0.28 - 0.25 * height) * lick.uniform(-1, 1),
            0.08 * (1.2 - height),
            colour,
        )
    return pixels


def _snow(time: float, dice: Dice) -> Frame:
    pixels = _blend((0.65, 0.7, 0.78), (0.85, 0.88, 0.92))
    for place, top in zip(dice.random(3), dice.uniform(0.35, 0.6, 3), strict=True):
        hill = top + 0.8 * (_COLUMNS - place) ** 2 < _ROWS
        pixels[hill] = (0.9, 0.93, 0.97) if top > 0.5 else (0.75, 0.8, 0.88)
    for row, column in dice.random((60, 2)):
        _disc(pixels, (row + time * dice.uniform(0.5, 1)) % 1, (column + 0.05 * np.sin(6 * time)) % 1, 0.012, (1, 1, 1))
    return pixels


def _space(time: float, dice: Dice) -> Frame:
    pixels = _blend((0.01, 0.0, 0.03), (0.01, 0.0, 0.03))
    for row, column in dice.random((80, 2)):
        pixels[int(row * HEIGHT), int(column * WIDTH)] = dice.uniform(0.5, 1)
    radius, colour = dice.uniform(0.12, 0.28), dice.uniform(0.2, 0.8, 3)
    row, column = dice.uniform(0.3, 0.7), dice.uniform(0.2, 0.6) + 0.2 * time
    _disc(pixels, row, column, radius, tuple(colour))
    _disc(pixels, row - radius / 3, column - radius / 3, radius / 2.5, tuple(np.minimum(1, colour * 1.4)))
    return pixels


# ---------------------------------------------------------------------- what is heard


def _noise(num: int, dice: Dice, low: float, high: float) -> Sound:
    """Noise between two frequencies."""
    spectrum = np.fft.rfft(dice.standard_normal(num))
    frequencies = np.fft.rfftfreq(num, 1 / RATE)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return np.asarray(np.fft.irfft(spectrum, num))


def _surf(times: Sound, dice: Dice) -> Sound:
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (dice.uniform(0.2, 0.5) * times + dice.random()))
    return _noise(len(times), dice, 50, dice.uniform(900, 1_500)) * (0.2 + swell**2)


def _birds(times: Sound, dice: Dice) -> Sound:
    sound = 0.02 * _noise(len(times), dice, 300, 6_000) / 0.3
    for start in np.cumsum(dice.uniform(0.15, 0.5, 12)):
        inside = (times >= start) & (times < start + 0.12)
        own = times[inside] - start
        pitch, sweep = dice.uniform(2_000, 4_500), dice.uniform(-9_000, 9_000)
        sound[inside] += np.sin(2 * np.pi * (pitch * own + sweep * own**2)) * np.sin(np.pi * own / 0.12)
    return sound


def _traffic(times: Sound, dice: Dice) -> Sound:
    hum = dice.uniform(70, 110)
    sound = sum(np.sin(2 * np.pi * hum * n * times + dice.random()) / n for n in (1, 2, 3, 4, 5))
    for start in dice.uniform(0, SECONDS - 0.5, 3):
        inside = (times >= start) & (times < start + 0.4)
        low = dice.uniform(380, 460)
        sound[inside] += 0.8 * np.sign(np.sin(2 * np.pi * low * times[inside])) + 0.8 * np.sign(
            np.sin(2 * np.pi * 1.26 * low * times[inside])
        )
    return np.asarray(sound)


def _crackle(times: Sound, dice: Dice) -> Sound:
    sound = 0.02 * _noise(len(times), dice, 60, 400)
    for start in dice.integers(0, len(times) - 500, int(dice.integers(80, 160))):
        sound[start : start + 500] += dice.uniform(0.2, 1) * dice.standard_normal(500) * np.exp(-np.arange(500) / 80)
    return sound


def _wind(times: Sound, dice: Dice) -> Sound:
    gusts = 0.4 + 0.6 * np.sin(2 * np.pi * (dice.uniform(0.15, 0.4) * times + dice.random())) ** 2
    return _noise(len(times), dice, dice.uniform(500, 700), dice.uniform(2_200, 3_000)) * gusts


def _pad(times: Sound, dice: Dice) -> Sound:
    root = dice.choice([110.0, 123.5, 130.8, 146.8])
    slow = 1 + 0.003 * np.sin(2 * np.pi * 0.3 * times + dice.random())
    return np.asarray(sum(np.sin(2 * np.pi * root * ratio * slow * times) for ratio in (1, 1.5, 2, 2.52)))


# ---------------------------------------------------------------------- what is said

ADJECTIVES = ("quiet", "long", "first", "last", "distant", "early", "late", "slow", "hidden", "great")
THEMES = (
    Theme("sea", _sea, _surf, ("ocean", "tide", "harbour", "sail", "coast"), (
        "Waves roll onto the shore.", "A boat sails over blue water.", "Salt wind fills the sail.",
        "The tide comes in along the coast.", "Gulls follow the ship across the ocean.", "Surf breaks on the beach.",
    )),
    Theme("forest", _forest, _birds, ("forest", "wood", "grove", "meadow", "trail"), (
        "Birds sing among the trees.", "Leaves move in a green wood.", "Moss grows on old oaks.",
        "A trail leads through the forest.", "Ferns and pines in the morning.", "A deer stands among the trees.",
    )),
    Theme("city", _city, _traffic, ("city", "street", "avenue", "skyline", "night shift"), (
        "Cars pass under neon lights.", "Windows shine in tall buildings.", "Traffic hums on the avenue.",
        "Taxis wait at a crossing downtown.", "The skyline at night.", "People hurry along the street.",
    )),
    Theme("fire", _fire, _crackle, ("fire", "hearth", "ember", "camp", "flame"), (
        "Flames leap from burning logs.", "Sparks rise over the camp.", "The hearth glows red and orange.",
        "Embers crackle in the dark.", "Smoke drifts from the fire.", "Wood burns slowly to ash.",
    )),
    Theme("snow", _snow, _wind, ("winter", "snowfall", "glacier", "blizzard", "summit"), (
        "Snow falls on white hills.", "Icy wind blows over the summit.", "Frost covers the frozen lake.",
        "Skiers cross a glacier.", "A cold winter morning.", "The blizzard hides the mountain.",
    )),
    Theme("space", _space, _pad, ("orbit", "planet", "galaxy", "comet", "moon"), (
        "A planet turns among the stars.", "The probe leaves its orbit.", "Light from a distant galaxy.",
        "An astronaut looks at the moon.", "A comet crosses the solar system.", "Silence between the stars.",
    )),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clips", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--per-theme", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    write(given.directory, clips(given.per_theme, given.seed))
    return 0


def write(directory: Path, made: Iterator[Clip]) -> list[Clip]:
    """Write a film and a text file for each."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Any] = []
    for clip in made:
        (directory / f"{clip.name}.mp4").write_bytes(clip.data)
        (directory / f"{clip.name}.txt").write_text(clip.text, encoding="utf-8")
        written.append(clip)
    return written


if __name__ == "__main__":
    sys.exit(main())

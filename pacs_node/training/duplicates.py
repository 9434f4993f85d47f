"""Near-duplicates: the same radiograph again, turned, mirrored, cropped, re-encoded, brighter or cut short.

Two stages. Every pair is compared by a polar fingerprint of the images' middles: in it a turn is a shift
along the angle (all turns at once, by the Fourier transform) and a mirror image its reversal. The pairs most
alike are then laid over each other (ECC: Evangelidis and Psarakis 2008) and compared in detail, place by
place, so that neither a gray bar nor a marker hides that the rest is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Disc = NDArray[np.float32]
Pair = tuple[int, int]

SIDE = 96
CENTRE = (SIDE - 1) / 2
ANGLES, RADII = 64, 14
ZOOMS = (1.0, 0.84, 0.7)
"""Parts of a middle that are compared with another's whole: for enlarged copies and added borders."""
NEIGHBOURS = 4
"""Number of most similar images that an image is registered with."""
CANDIDATE = 0.7
"""Lowest similarity of fingerprints for that."""
SAME = 0.95
"""Least likeness in detail of the same image; docs/model.md explains the choice."""
CHUNK = 16


def disc(display: NDArray[np.float32]) -> Disc:
    """The largest square in the middle of an image (rows, columns): (SIDE, SIDE)."""
    rows, columns = display.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    middle = display[top : top + side, left : left + side]
    return cv2.resize(middle, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def find(discs: Sequence[Disc], console: Console | None = None) -> dict[Pair, float]:
    """The pairs of discs that show the same image: (index, larger index) -> likeness in detail, SAME..1."""
    prints = np.array([[_fingerprint(one, zoom) for one in discs] for zoom in ZOOMS])
    spectra = np.fft.rfft(prints, axis=2).astype(np.complex64)
    ways = [way for zoomed in spectra.transpose(0, 2, 3, 1) for way in (zoomed, zoomed.conj())]

    def candidates(start: int) -> list[tuple[Pair, int, int]]:
        own = spectra[0, start : start + CHUNK].transpose(1, 0, 2).conj()
        by_turn = [np.fft.irfft(own @ way, n=ANGLES, axis=0) for way in ways]
        likeness = np.array([over_turns.max(axis=0) for over_turns in by_turn])
        best = likeness.max(axis=0)
        best[np.arange(len(best)), np.arange(start, start + len(best))] = 0
        found = []
        for row, others in enumerate(np.argsort(-best)[:, :NEIGHBOURS]):
            for other in others[best[row, others] > CANDIDATE]:
                way = int(likeness[:, row, other].argmax())
                turn = int(by_turn[way][:, row, other].argmax())
                found.append(((start + row, int(other)), way, turn))
        return found

    def compare(candidate: tuple[Pair, int, int]) -> float:
        (first, second), way, turn = candidate
        onto = _onto(ZOOMS[way // 2], way % 2 == 1, 2 * np.pi * turn / ANGLES)
        return _in_detail(discs[first], discs[second], onto)

    of_opencv = cv2.getNumThreads()
    cv2.setNumThreads(1)  # its threads wait by spinning, which starves the others where all are busy
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            starts = range(0, len(discs), CHUNK)
            chunks = progress(threads.map(candidates, starts), "compare", len(starts), console)
            unique = {(min(one[0]), max(one[0])): one for chunk in chunks for one in chunk}
            compared = threads.map(compare, unique.values())
            details = list(progress(compared, "compare in detail", len(unique), console))
    finally:
        cv2.setNumThreads(of_opencv)
    return {pair: value for pair, value in zip(unique, details, strict=True) if value >= SAME}


def progress(items: Iterable[Item], what: str, total: int, console: Console | None) -> Iterable[Item]:
    """The same items, with a progress bar on the console if there is one."""
    return track(items, what, total, console=console, transient=True, disable=console is None)


def clusters(count: int, pairs: Iterable[Pair]) -> list[int]:
    """Connected components: for each of `count` items the smallest item connected with it."""
    root = list(range(count))

    def top(item: int) -> int:
        while root[item] != item:
            item = root[item]
        return item

    for first, second in pairs:
        low, high = sorted((top(first), top(second)))
        root[high] = low
    return [top(item) for item in range(count)]


def _fingerprint(one: Disc, zoom: float) -> NDArray[np.float32]:
    """Fine structure over angle and radius, (ANGLES, RADII), of length 1; rings count by their area."""
    fine = cv2.GaussianBlur(one - cv2.GaussianBlur(one, (0, 0), 0.15 * SIDE), (0, 0), SIDE / 4 / RADII)
    polar = cv2.warpPolar(fine, (RADII, ANGLES), (CENTRE, CENTRE), zoom * SIDE / 2, cv2.INTER_LINEAR)
    area = np.arange(RADII) + 0.5
    weighted = (polar - (polar * area).sum() / area.sum() / ANGLES) * np.sqrt(area)
    return np.asarray(weighted / (np.linalg.norm(weighted) + 1e-6), np.float32)


def _onto(zoom: float, mirrored: bool, turn: float) -> NDArray[np.float32]:
    """The affine map (2, 3) from a disc to the part of another that is it, turned by `turn` radians."""
    along, across = zoom * np.cos(turn), zoom * np.sin(turn)
    matrix = np.array([[along, -across], [across, along]])
    if mirrored:
        matrix[1] = -matrix[1]
    return np.column_stack([matrix, CENTRE - matrix @ (CENTRE, CENTRE)]).astype(np.float32)


def _in_detail(one: Disc, other: Disc, onto: NDArray[np.float32]) -> float:
    """How alike two discs are laid over each other: as found, or better with the map refined."""
    found = _likeness(one, other, onto)
    if found >= SAME:
        return found
    smooth = [cv2.GaussianBlur(disc, (0, 0), 1) for disc in (one, other)]
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-4)
    inside = _inside().astype(np.uint8)
    try:
        _, refined = cv2.findTransformECC(smooth[0], smooth[1], onto, cv2.MOTION_AFFINE, until, inside, 3)
    except cv2.error:  # it does not converge where they are not alike
        return found
    return max(found, _likeness(one, other, np.asarray(refined, np.float32)))


def _likeness(one: Disc, other: Disc, onto: NDArray[np.float32]) -> float:
    """The median, over places weighted by their contrast, of the correlation around a place: -1..1.

    0 where too little of the discs overlaps, or the map distorts too much, for that to mean something.
    """
    back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(other, onto, (SIDE, SIDE), flags=back)
    places = _inside() & (cv2.warpAffine(np.ones_like(other), onto, (SIDE, SIDE), flags=back) > 0.99)
    stretch = np.linalg.svd(onto[:, :2], compute_uv=False)
    if places.mean() < 0.35 or stretch[0] > 1.8 or stretch[1] < 0.45:
        return 0.0
    first, second = (image - cv2.GaussianBlur(image, (0, 0), 0.04 * SIDE) for image in (one, laid))
    of_first, of_second = (np.maximum(_around(i * i) - _around(i) ** 2, 0)[places] for i in (first, second))
    both = (_around(first * second) - _around(first) * _around(second))[places]
    correlation = both / np.sqrt(of_first * of_second + 1e-14)
    contrast = np.sqrt(np.minimum(of_first, of_second))
    order = np.argsort(correlation)
    total = np.cumsum(contrast[order])
    return float(correlation[order][np.searchsorted(total, total[-1] / 2)]) if total[-1] > 0 else 0.0


def _around(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean around each place."""
    return np.asarray(cv2.blur(image, (SIDE // 6, SIDE // 6)), np.float32)


def _inside() -> NDArray[np.bool_]:
    """The places of a disc, (SIDE, SIDE), that are in its circle."""
    away = np.hypot(*(np.indices((SIDE, SIDE)) - CENTRE))
    return np.asarray(away < SIDE / 2 - 1)

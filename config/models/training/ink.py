"""The reference of `fit = { ink = ... }`: finds what is drawn in a picture and fits it into a model's input.

`src/vision/ink.rs` does the same in Rust; `train_digits.py` writes pictures' results to `src/vision/ink_golden.json`, and
a test there compares. Change both or neither.
"""

import numpy as np
from scipy import ndimage

WORK_SIDE_MAX = 512  # pixels; larger pictures are scaled down to this before anything is looked for
SMOOTH_SIDE_MIN = 48  # pixels; smaller pictures (an 8 x 8 scan) have no pixel to spare for smoothing
PEAK_MIN = 12.0  # of 255; nothing that differs less from the background counts as drawn
THRESHOLD = 0.3  # of the ink's peak
NOISE_SIGMAS = 4.0
SPECK_MASS = 0.04  # of the largest component's mass; what is smaller is dirt


class NoInk(Exception):
    """Nothing stands out from the background."""


def grey(rgb):
    """Rec. 601 luma, rounded to whole numbers, of an H x W x 3 array of bytes."""
    rgb = rgb.astype(np.int64)
    return ((299 * rgb[..., 0] + 587 * rgb[..., 1] + 114 * rgb[..., 2] + 500) // 1000).astype(np.float64)


def weights(n_in, n_out):
    """A triangle filter's weights, n_out x n_in: bilinear where it enlarges, every pixel counted where it shrinks."""
    scale = n_in / n_out
    support = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    w = 1.0 - np.abs(np.arange(n_in)[None, :] + 0.5 - centre[:, None]) / support
    w = np.maximum(w, 0.0)
    return w / w.sum(axis=1, keepdims=True)


def resize(a, height, width):
    """`a` (H x W) at another size."""
    return weights(a.shape[0], height) @ a @ weights(a.shape[1], width).T


def border(a):
    """The outermost pixels, one frame wide."""
    return np.concatenate([a[0], a[-1], a[1:-1, 0], a[1:-1, -1]])


def median(values):
    """The upper median: an element, never a mean of two."""
    return np.sort(values)[len(values) // 2]


def ink_of(g):
    """How far each pixel lies from the background, on the side on which the ink is; and what is not noise of it."""
    d = g - median(border(g))
    if np.sum(np.square(np.minimum(d, 0.0))) > np.sum(np.square(np.maximum(d, 0.0))):
        d = -d
    if min(d.shape) >= SMOOTH_SIDE_MIN:
        padded = np.pad(d, 1, mode="edge")
        rows = (padded[:-2] + 2.0 * padded[1:-1] + padded[2:]) / 4.0
        d = (rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 4.0
    noise = 1.4826 * median(np.abs(border(d)))
    rank = max(2, sum(d.shape) // 32)
    peak = np.sort(d, axis=None)[-min(rank, d.size)]
    if peak < max(PEAK_MIN, NOISE_SIGMAS * noise):
        raise NoInk
    return d, peak, max(THRESHOLD * peak, NOISE_SIGMAS * noise)


def without_specks(d, threshold):
    """Which pixels belong to strokes: components above the threshold (8-connected) that are not dirt."""
    labels, count = ndimage.label(d > threshold, structure=np.ones((3, 3)))
    mass = ndimage.sum_labels(d, labels, np.arange(1, count + 1))
    kept = np.flatnonzero(mass >= SPECK_MASS * mass.max()) + 1
    return np.isin(labels, kept)


def fit(rgb, side, margin):
    """A picture's ink as a side x side array in 0..1: bright on 0, cropped, its longer side `side - 2 * margin`, centred."""
    g = grey(rgb)
    longer = max(g.shape)
    if longer > WORK_SIDE_MAX:
        scale = WORK_SIDE_MAX / longer
        g = resize(g, max(1, int(g.shape[0] * scale + 0.5)), max(1, int(g.shape[1] * scale + 0.5)))
    d, peak, threshold = ink_of(g)
    strokes = without_specks(d, threshold)
    rows, columns = np.flatnonzero(strokes.any(axis=1)), np.flatnonzero(strokes.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    near = ndimage.binary_dilation(strokes, structure=np.ones((3, 3)))
    ink = np.where(near, np.clip(d / peak, 0.0, 1.0), 0.0)[box]
    room = side - 2 * margin
    scale = room / max(ink.shape)
    height, width = (max(1, int(n * scale + 0.5)) for n in ink.shape)
    small = resize(ink, height, width)
    out = np.zeros((side, side))
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = small / small.max()
    return out

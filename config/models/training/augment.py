"""Makes many hands and pens out of the data set's 8 x 8 scans: shift, scale, shear, rotation, bending, thickness, blur, noise."""

import numpy as np
from scipy import ndimage

import ink

SCALE = 8  # a scan's pixel becomes 8 x 8
PAD = 1  # scan pixels of paper around
SIZE = SCALE * (8 + 2 * PAD)


def enlarged(scan):
    """A scan (8 x 8, 0..16) as a smooth SIZE x SIZE picture, 0..1."""
    padded = np.pad(scan / 16.0, PAD)
    return np.clip(ndimage.zoom(padded, SCALE, order=3, mode="nearest", grid_mode=True), 0.0, 1.0)


def thinned(mask):
    """The mask's one-pixel skeleton (Zhang and Suen, 1984)."""
    m = np.pad(mask, 1).astype(np.uint8)
    changed = True
    while changed:
        changed = False
        for step in (0, 1):
            n = [np.roll(m, shift, (0, 1)) for shift in ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))]
            around = sum(n)
            turns = sum((n[i] == 0) & (n[(i + 1) % 8] == 1) for i in range(8))
            north, east, south, west = n[0], n[2], n[4], n[6]
            a, b = (north * east * south, east * south * west) if step == 0 else (north * east * west, north * south * west)
            gone = (m == 1) & (around >= 2) & (around <= 6) & (turns == 1) & (a == 0) & (b == 0)
            if gone.any():
                m[gone] = 0
                changed = True
    return m[1:-1, 1:-1].astype(bool)


def bases(scan):
    """What every variant of a scan is made of: its coverage, and the distance to its middle line at two thresholds."""
    coverage = enlarged(scan)
    lines = [ndimage.distance_transform_edt(~thinned(coverage > level)) for level in (0.4, 0.55)]
    return coverage, lines


def bend(rng, strength=1.0):
    """Where each pixel of a variant comes from: an affine map about the middle, and a smooth random displacement."""
    angle, shear = np.deg2rad(strength * rng.uniform(-15, 15)), strength * rng.uniform(-0.3, 0.3)
    scale = np.diag(1 / (1 + strength * rng.uniform(-0.25, 0.1, 2)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, 0.0], [shear, 1.0]]) @ scale
    grid = np.mgrid[0:SIZE, 0:SIZE].reshape(2, -1) - (SIZE - 1) / 2
    moved = matrix @ grid + (SIZE - 1) / 2 + rng.uniform(-3, 3, (2, 1))
    coarse = strength * rng.normal(0, rng.uniform(0.0, 3.2), (2, 5, 5))
    wave = np.stack([ndimage.zoom(c, SIZE / 5, order=3, mode="nearest", grid_mode=True) for c in coarse])
    return moved.reshape(2, SIZE, SIZE) + wave


def binned(mask):
    """As the data set's scanner would have it: each 8 x 8 block one pixel. Its size is the variant's over SCALE."""
    return mask.reshape(SIZE // SCALE, SCALE, SIZE // SCALE, SCALE).mean(axis=(1, 3))


def variant(base, rng):
    """One variant as ink on paper, 0..1: a scan as it is but bent a little; with sharp edges, thicker or thinner; or drawn
    along its middle line with a pen of another width."""
    coverage, lines = base
    kind = rng.random()
    if kind < 0.3:
        mask = ndimage.map_coordinates(coverage, bend(rng, 0.6), order=1, mode="constant") ** rng.uniform(0.7, 1.4)
        return mask if rng.random() < 0.5 else binned(mask)
    where = bend(rng)
    if kind < 0.55:
        level, soft = rng.uniform(0.3, 0.65), rng.uniform(0.05, 0.4)
        warped = ndimage.map_coordinates(coverage, where, order=1, mode="constant")
        mask = np.clip((warped - level) / soft + 0.5, 0.0, 1.0)
    else:
        line = lines[rng.integers(len(lines))]
        far = ndimage.map_coordinates(line, where, order=1, mode="nearest")
        mask = np.clip(np.exp(rng.uniform(np.log(0.6), np.log(8.0))) - far + 0.5, 0.0, 1.0)
    if rng.random() < 0.3:
        mask = ndimage.gaussian_filter(mask, rng.uniform(0.5, 2.0))
    return mask


def as_picture(mask, rng):
    """The mask as a light grey picture with dark ink; a little noise in some."""
    noise = rng.choice([0.0, 0.0, 4.0, 10.0])
    grey = np.clip(np.rint(230 - 200 * mask + rng.normal(0, noise, mask.shape)), 0, 255)
    return np.repeat(np.uint8(grey)[..., None], 3, axis=2)


def scan_as_picture(scan):
    """A scan as the data set has it: 8 x 8 pixels, dark ink on white."""
    return np.repeat(np.uint8(np.rint(255 - scan * (255 / 16)))[..., None], 3, axis=2)


def variants(scans, labels, each, side, margin, seed):
    """Each scan itself and `each` variants of it, fitted into the model's input: (n x side x side floats, labels)."""
    rng = np.random.default_rng(seed)
    inputs, answers = [], []
    for scan, label in zip(scans, labels):
        pictures = [scan_as_picture(scan)]
        base = bases(scan)
        pictures += [as_picture(variant(base, rng), rng) for _ in range(each)]
        for picture in pictures:
            try:
                inputs.append(ink.fit(picture, side, margin).astype(np.float32))
                answers.append(label)
            except ink.NoInk:
                continue  # a variant that the noise drowned
    return np.stack(inputs), np.array(answers)

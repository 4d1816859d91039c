"""Digits drawn with a pen that the model has never seen: strokes, hands, pens and papers of our own, and fonts.

Nothing here comes from the data set, and nothing here is trained on: it answers how the model reads other people's
digits. Strokes are control points in a unit square, y downwards; "~" strokes are curves through them, "-" straight.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

STYLES = {
    0: [
        [("~", [(0.5, 0.0), (0.15, 0.18), (0.02, 0.5), (0.15, 0.85), (0.5, 1.0), (0.82, 0.85), (0.96, 0.5), (0.84, 0.15), (0.5, 0.0)])],
        [("~", [(0.55, 0.02), (0.28, 0.12), (0.2, 0.5), (0.3, 0.9), (0.52, 1.0), (0.74, 0.85), (0.8, 0.5), (0.72, 0.12), (0.5, 0.03), (0.4, 0.1)])],
        [("~", [(0.62, 0.06), (0.3, 0.1), (0.06, 0.55), (0.22, 0.96), (0.6, 0.95), (0.9, 0.6), (0.88, 0.2), (0.6, 0.0)])],
    ],
    1: [
        [("-", [(0.5, 0.0), (0.5, 1.0)])],
        [("-", [(0.2, 0.28), (0.55, 0.0), (0.55, 1.0)])],
        [("-", [(0.25, 0.25), (0.5, 0.0), (0.5, 1.0)]), ("-", [(0.2, 1.0), (0.8, 1.0)])],
        [("-", [(0.62, 0.0), (0.42, 1.0)])],
    ],
    2: [
        [("~", [(0.08, 0.25), (0.25, 0.04), (0.6, 0.0), (0.85, 0.2), (0.75, 0.5), (0.35, 0.8), (0.05, 1.0)]), ("-", [(0.05, 1.0), (0.95, 1.0)])],
        [("~", [(0.1, 0.2), (0.4, 0.0), (0.8, 0.12), (0.82, 0.4), (0.5, 0.7), (0.15, 0.95), (0.08, 0.86), (0.3, 0.82), (0.6, 0.96), (0.95, 0.93)])],
        [("~", [(0.15, 0.3), (0.3, 0.02), (0.75, 0.05), (0.88, 0.3), (0.6, 0.6), (0.1, 0.98), (0.5, 0.95), (0.95, 0.98)])],
    ],
    3: [
        [("~", [(0.1, 0.12), (0.45, 0.0), (0.8, 0.15), (0.75, 0.4), (0.4, 0.48)]), ("~", [(0.4, 0.48), (0.82, 0.58), (0.88, 0.82), (0.5, 1.0), (0.06, 0.88)])],
        [("-", [(0.1, 0.0), (0.85, 0.0), (0.45, 0.4)]), ("~", [(0.45, 0.4), (0.85, 0.55), (0.85, 0.85), (0.45, 1.0), (0.08, 0.88)])],
        [("~", [(0.12, 0.2), (0.3, 0.02), (0.7, 0.02), (0.82, 0.25), (0.6, 0.45), (0.42, 0.5), (0.66, 0.5), (0.9, 0.72), (0.7, 0.96), (0.35, 1.0), (0.08, 0.82)])],
    ],
    4: [
        [("-", [(0.62, 0.0), (0.05, 0.66), (0.95, 0.66)]), ("-", [(0.68, 0.3), (0.68, 1.0)])],
        [("-", [(0.15, 0.0), (0.1, 0.5), (0.9, 0.5)]), ("-", [(0.8, 0.0), (0.78, 1.0)])],
        [("-", [(0.7, 1.0), (0.7, 0.0), (0.05, 0.7), (0.95, 0.7)])],
        [("~", [(0.2, 0.02), (0.12, 0.4), (0.35, 0.55), (0.8, 0.45)]), ("-", [(0.85, 0.05), (0.7, 1.0)])],
    ],
    5: [
        [("-", [(0.85, 0.0), (0.2, 0.0), (0.15, 0.45)]), ("~", [(0.15, 0.45), (0.5, 0.36), (0.88, 0.55), (0.85, 0.85), (0.5, 1.0), (0.08, 0.9)])],
        [("~", [(0.22, 0.02), (0.18, 0.42), (0.6, 0.4), (0.9, 0.65), (0.72, 0.95), (0.35, 1.0), (0.08, 0.86)]), ("-", [(0.22, 0.02), (0.88, 0.0)])],
        [("-", [(0.9, 0.02), (0.28, 0.02), (0.2, 0.48), (0.55, 0.42)]), ("~", [(0.55, 0.42), (0.86, 0.56), (0.86, 0.84), (0.55, 1.0), (0.1, 0.95)])],
    ],
    6: [
        [("~", [(0.75, 0.02), (0.35, 0.25), (0.1, 0.65), (0.25, 0.95), (0.6, 1.0), (0.88, 0.8), (0.75, 0.55), (0.4, 0.55), (0.12, 0.75)])],
        [("~", [(0.6, 0.0), (0.25, 0.35), (0.12, 0.75), (0.4, 1.0), (0.8, 0.9), (0.82, 0.62), (0.5, 0.5), (0.18, 0.68)])],
        [("~", [(0.85, 0.1), (0.55, 0.0), (0.22, 0.3), (0.1, 0.7), (0.35, 1.0), (0.75, 0.95), (0.85, 0.7), (0.6, 0.5), (0.25, 0.58), (0.12, 0.75)])],
    ],
    7: [
        [("-", [(0.05, 0.0), (0.95, 0.0), (0.35, 1.0)])],
        [("-", [(0.05, 0.05), (0.92, 0.05), (0.4, 1.0)]), ("-", [(0.25, 0.5), (0.85, 0.5)])],
        [("~", [(0.06, 0.16), (0.1, 0.03), (0.5, 0.06), (0.92, 0.02)]), ("~", [(0.92, 0.02), (0.6, 0.45), (0.45, 1.0)])],
    ],
    8: [
        [("~", [(0.8, 0.15), (0.5, 0.0), (0.18, 0.18), (0.35, 0.42), (0.7, 0.58), (0.88, 0.8), (0.5, 1.0), (0.1, 0.8), (0.3, 0.58), (0.65, 0.42), (0.82, 0.2), (0.75, 0.1)])],
        [("~", [(0.5, 0.0), (0.2, 0.1), (0.2, 0.35), (0.5, 0.46), (0.8, 0.35), (0.8, 0.1), (0.5, 0.0)]), ("~", [(0.5, 0.46), (0.12, 0.6), (0.12, 0.88), (0.5, 1.0), (0.88, 0.88), (0.88, 0.6), (0.5, 0.46)])],
        [("~", [(0.85, 0.08), (0.45, 0.0), (0.2, 0.2), (0.5, 0.48), (0.8, 0.78), (0.55, 1.0), (0.2, 0.85), (0.42, 0.55), (0.85, 0.1)])],
    ],
    9: [
        [("~", [(0.85, 0.2), (0.55, 0.0), (0.18, 0.12), (0.14, 0.4), (0.45, 0.52), (0.8, 0.38), (0.86, 0.18)]), ("-", [(0.86, 0.18), (0.8, 1.0)])],
        [("~", [(0.84, 0.3), (0.6, 0.02), (0.2, 0.1), (0.15, 0.4), (0.5, 0.5), (0.82, 0.3)]), ("~", [(0.84, 0.25), (0.84, 0.6), (0.65, 0.95), (0.2, 0.95)])],
        [("~", [(0.8, 0.12), (0.4, 0.02), (0.15, 0.3), (0.4, 0.5), (0.75, 0.35), (0.82, 0.1), (0.7, 0.6), (0.5, 1.0)])],
    ],
}

FONTS = [
    ("dejavu/DejaVuSans.ttf", "sans"), ("dejavu/DejaVuSans-Oblique.ttf", "sans oblique"),
    ("dejavu/DejaVuSans-ExtraLight.ttf", "sans thin"), ("dejavu/DejaVuSans-Bold.ttf", "sans bold"),
    ("dejavu/DejaVuSerif.ttf", "serif"), ("dejavu/DejaVuSerif-BoldItalic.ttf", "serif bold italic"),
    ("dejavu/DejaVuSansMono.ttf", "mono (dotted zero)"), ("dejavu/DejaVuSansCondensed.ttf", "condensed"),
]


def curve(points, per_segment=12):
    """A Catmull-Rom spline through the points."""
    p = np.asarray(points, dtype=float)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, per_segment, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:]):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack(parts + [p[-2:-1]])


def strokes(digit, style, rng):
    """One writer's digit: the style's control points, each a little off, slanted and stretched."""
    slant, tilt = rng.uniform(-0.15, 0.35), np.deg2rad(rng.uniform(-9, 9))
    width = rng.uniform(0.5, 0.85)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    lines = []
    for kind, points in STYLES[digit][style]:
        p = np.asarray(points) + rng.normal(0, 0.018, (len(points), 2))
        p = curve(p) if kind == "~" else p
        p = np.column_stack([(p[:, 0] - 0.5) * width - (p[:, 1] - 0.5) * slant * 0.6, p[:, 1] - 0.5])
        lines.append(p @ turn.T)
    return lines


def pen_picture(digit, style, rng):
    """A picture of a drawn digit as RGB bytes, and what is said of it."""
    canvas = int(rng.choice([96, 160, 280, 400, 640, 1000]))
    height = canvas * rng.uniform(0.28, 0.85)
    pen = max(1.3, height * rng.choice([0.02, 0.045, 0.08, 0.13, 0.19]))
    lines = [line * height for line in strokes(digit, style, rng)]
    every = np.vstack(lines)
    low, high = every.min(axis=0) - pen, every.max(axis=0) + pen
    room = np.maximum(canvas - (high - low), 0)
    at = rng.uniform(0.1, 0.9, 2) * room - low
    big = 2  # drawn twice as large, then shrunk: smooth edges
    mask = Image.new("L", (canvas * big, canvas * big), 0)
    draw = ImageDraw.Draw(mask)
    for line in lines:
        path = [tuple((point + at) * big) for point in line]
        draw.line(path, fill=255, width=max(1, round(pen * big)), joint="curve")
        for x, y in (path[0], path[-1]):
            r = pen * big / 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    mask = np.asarray(mask.resize((canvas, canvas), Image.BOX), dtype=float) / 255
    return paper(mask, rng)


def font_picture(digit, font, rng):
    """A picture of a printed digit."""
    canvas = int(rng.choice([64, 128, 256, 512]))
    face = ImageFont.truetype(font, int(canvas * rng.uniform(0.4, 0.9)))
    mask = Image.new("L", (canvas, canvas), 0)
    left, top, right, bottom = face.getbbox(str(digit))
    x, y = (rng.uniform(0.1, 0.9) * (canvas - (right - left)) - left, rng.uniform(0.1, 0.9) * (canvas - (bottom - top)) - top)
    ImageDraw.Draw(mask).text((x, y), str(digit), fill=255, font=face)
    return paper(np.asarray(mask, dtype=float) / 255, rng)


def paper(mask, rng):
    """Ink on paper: either may be the darker, both may be coloured; light from one side; a little noise; some as JPEG."""
    dark, light = rng.uniform(0, 90, 3), rng.uniform(165, 255, 3)
    ink, ground = (dark, light) if rng.random() < 0.6 else (light, dark)
    rgb = ground + mask[..., None] * (ink - ground)
    side = mask.shape[0]
    slope = rng.uniform(-1, 1, 2) * rng.choice([0, 0, 12])
    rgb = rgb + (np.add.outer(np.linspace(-1, 1, side) * slope[0], np.linspace(-1, 1, side) * slope[1]))[..., None]
    rgb = rgb + rng.normal(0, rng.choice([0, 0, 4, 10]), rgb.shape)
    if rng.random() < 0.15:
        dirt = rng.random(mask.shape) < 0.0008
        rgb[dirt] = ink
    picture = Image.fromarray(np.uint8(np.clip(np.rint(rgb), 0, 255)))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(side / 250))
    return picture


def encoded(picture, rng):
    """The picture through a file, as a user would send it."""
    file = io.BytesIO()
    if rng.random() < 0.5:
        picture.save(file, "JPEG", quality=int(rng.choice([60, 85])))
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def drawings(seed, each):
    """`each` pictures of every style of every digit: (digit, style, picture)."""
    rng = np.random.default_rng(seed)
    for digit, styles in STYLES.items():
        for style in range(len(styles)):
            for _ in range(each):
                yield digit, f"style {style}", pen_picture(digit, style, rng)


def prints(seed, each, folder="/usr/share/fonts/truetype"):
    """`each` pictures of every digit in every font: (digit, font, picture)."""
    rng = np.random.default_rng(seed)
    for path, name in FONTS:
        for digit in range(10):
            for _ in range(each):
                yield digit, name, font_picture(digit, f"{folder}/{path}", rng)

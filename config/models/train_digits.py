"""Trains digits.onnx and writes everything that depends on it: digits.toml's SHA-256, samples/, the golden pictures of
the preprocessing, and the figures for the card (training/report.json). The build and the tests never run this.

    python3 -m venv venv && venv/bin/pip install -r training/requirements.txt
    venv/bin/python train_digits.py

Seeded: the same machine and versions give the same file; another processor may round differently.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "training"))

import augment  # noqa: E402
import drawn  # noqa: E402
import ink  # noqa: E402
import network  # noqa: E402

SEED = 20261120
SIDE, MARGIN = 28, 4
VARIANTS = 40
HELD_OUT = 360  # a fifth


def split(way):
    """What is trained on and what is held out, which training never looks at. `stratified`: the same share of every digit,
    drawn at random. `last`: the end of the data set's own order, probably other writers than before it (it names none)."""
    data = load_digits()
    if way == "stratified":
        a, b, c, d = train_test_split(data.images, data.target, test_size=HELD_OUT, random_state=SEED, stratify=data.target)
        return (a, c), (b, d)
    cut = len(data.images) - HELD_OUT
    return (data.images[:cut], data.target[:cut]), (data.images[cut:], data.target[cut:])


def training_set(scans, labels, each):
    """All variants, on all processors; the same whatever their number."""
    jobs = [(scans[i : i + 64], labels[i : i + 64], each, SIDE, MARGIN, (SEED, i)) for i in range(0, len(scans), 64)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(augment.variants, *zip(*jobs)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def read(run, pictures):
    """Label and score of each picture; -1 where no ink was found."""
    answers = []
    for picture in pictures:
        try:
            logits = run(ink.fit(np.asarray(picture.convert("RGB")), SIDE, MARGIN)[None, None].astype(np.float32))[0]
        except ink.NoInk:
            answers.append((-1, 0.0))
            continue
        odds = np.exp(logits - logits.max())
        answers.append((int(logits.argmax()), float(odds.max() / odds.sum())))
    return answers


def score(run, labelled):
    """How many of the labelled pictures (digit, group, picture) are read rightly, in all and by group and digit."""
    labelled = list(labelled)
    answers = read(run, [picture for _, _, picture in labelled])
    groups, digits = {}, {}
    for (digit, group, _), (answer, _) in zip(labelled, answers):
        for table, key in ((groups, group), (digits, str(digit))):
            right, count = table.get(key, (0, 0))
            table[key] = (right + (answer == digit), count + 1)
    right = sum(r for r, _ in digits.values())
    return {"right": right, "of": len(labelled), "accuracy": round(right / len(labelled), 4), "groups": groups, "digits": digits}


def pasted(scan, rng):
    """A held-out scan as somebody would photograph it: enlarged, somewhere on a larger paper."""
    size = int(rng.integers(60, 200))
    mask = np.asarray(Image.fromarray(np.uint8(scan * (255 / 16))).resize((size, size), Image.BICUBIC), dtype=float) / 255
    paper = np.zeros((256, 256))
    top, left = rng.integers(0, 256 - size, 2)
    paper[top : top + size, left : left + size] = mask
    return drawn.paper(paper, rng)


def evaluate(run, held_out):
    """All that the card reports."""
    scans, labels = held_out
    rng = np.random.default_rng(SEED + 2)
    raw = [(int(d), "8x8", Image.fromarray(augment.scan_as_picture(s))) for s, d in zip(scans, labels)]
    photos = [(int(d), "enlarged", pasted(s, rng)) for s, d in zip(scans, labels)]
    return {
        "held_out": score(run, raw),
        "held_out_on_paper": score(run, photos),
        "drawn": score(run, drawn.drawings(SEED + 3, 30)),
        "fonts": score(run, drawn.prints(SEED + 4, 5)),
    }


def write_samples(held_out):
    """A dozen pictures to try: five of the held-out scans, the rest drawn. Their names say the digit."""
    folder = HERE / "samples"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    scans, labels = held_out
    rng = np.random.default_rng(SEED + 5)
    for digit in (0, 3, 5, 7, 8):
        at = int(np.flatnonzero(labels == digit)[7])
        pasted(scans[at], rng).save(folder / f"{digit}-scan.png", optimize=True)
    for number, (digit, style) in enumerate([(1, 1), (2, 1), (4, 0), (4, 1), (5, 0), (6, 0), (7, 1), (8, 2), (9, 0), (9, 2)]):
        picture = drawn.pen_picture(digit, style, rng)
        name = f"{digit}-drawn-{style}"
        if number % 2 == 0 and picture.width <= 400:
            picture.save(folder / f"{name}.png", optimize=True)
        else:
            picture.save(folder / f"{name}.jpg", quality=85)


def write_golden():
    """What the preprocessing makes of the PNG samples, for the test that compares Rust's with it."""
    golden = []
    for path in sorted((HERE / "samples").glob("*.png")):
        fitted = ink.fit(np.asarray(Image.open(path).convert("RGB")), SIDE, MARGIN)
        golden.append({"sample": path.name, "input": [round(float(v), 4) for v in fitted.ravel()]})
    out = {"written_by": "config/models/train_digits.py", "side": SIDE, "margin": MARGIN, "pictures": golden}
    (HERE.parent.parent / "src" / "vision" / "ink_golden.json").write_text(json.dumps(out) + "\n")


def main():
    """Train, export, evaluate the exported file, write."""
    options = argparse.ArgumentParser()
    options.add_argument("--keep", action="store_true", help="keep digits.onnx; evaluate and write the rest only")
    options.add_argument("--split", choices=["stratified", "last"], default="stratified", help="what is held out")
    chosen = options.parse_args()
    train, held_out = split(chosen.split)
    model = HERE / "digits.onnx"
    if not chosen.keep:
        inputs, answers = training_set(*train, VARIANTS)
        print(f"{len(train[0])} scans became {len(inputs)} pictures", flush=True)
        network.export(network.train(inputs, answers, SEED), SIDE, model)
    run = network.runner(model)
    report = {"split": chosen.split, **evaluate(run, held_out)}
    report["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    report["bytes"] = model.stat().st_size
    (HERE / "training" / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    for name in ("held_out", "held_out_on_paper", "drawn", "fonts"):
        print(name, report[name], flush=True)
    write_samples(held_out)
    write_golden()
    description = HERE / "digits.toml"
    if description.exists():
        text = description.read_text()
        description.write_text(re.sub(r'sha256  = "[0-9a-f]*"', f'sha256  = "{report["sha256"]}"', text))


if __name__ == "__main__":
    main()

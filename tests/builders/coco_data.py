"""Small annotation files in COCO's format, data sets of them, and results to score."""

import json
from pathlib import Path

import cv2
import numpy as np

import det

HEIGHT, WIDTH = 60, 80


def content() -> dict:
    """Three images, classes with gaps in their ids; the third image has no box."""
    images = [{"id": 10 * n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in (1, 2, 3)]
    boxes = [(10, [5, 6, 30, 20], 90), (20, [40.5, 10, 20, 30.5], 1), (10, [50, 30, 20, 20], 3)]
    annotations = [
        {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "area": 1, "iscrowd": 0}
        for number, (image_id, box, category_id) in enumerate(boxes, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in ((90, "tooth"), (1, "person"), (3, "car"))]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, data: dict | str, split: str = "val2017") -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    text = data if isinstance(data, str) else json.dumps(data)
    (root / "annotations" / f"instances_{split}.json").write_text(text)
    random = np.random.default_rng(0)
    for number in (1, 2, 3):
        cv2.imwrite(str(root / split / f"{number}.png"), random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    return root


def dataset(root: Path, **keywords) -> det.CocoDetection:
    return det.CocoDetection(root, "val2017", **keywords)


CATEGORY_IDS = [1, 3, 90]


def ground_truth(crowds: bool = True) -> dict:
    """Thirty images with boxes of all sizes, some crowds, one image without any, gaps in the category ids."""
    random = np.random.default_rng(0)
    annotations = []
    for image_id in range(1, 30):
        for _ in range(random.integers(1, 7)):
            corner, sides = random.uniform(0, 200, 2), random.uniform(5, 250, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(random.choice(CATEGORY_IDS)),
                    "bbox": [*corner.tolist(), *sides.tolist()],
                    "area": float(sides.prod() * 0.8),
                    "iscrowd": int(crowds and random.random() < 0.1),
                }
            )
    return {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "height": 480, "width": 480} for n in range(1, 31)],
        "annotations": annotations,
        "categories": [{"id": n, "name": f"class {n}"} for n in CATEGORY_IDS],
    }


def noisy_results(truth: dict) -> list[dict]:
    random = np.random.default_rng(1)
    results = []
    for row in truth["annotations"]:
        for _ in range(random.integers(0, 4)):
            box = np.array(row["bbox"]) + random.normal(0, 6, 4)
            category_id = row["category_id"] if random.random() < 0.8 else int(random.choice(CATEGORY_IDS))
            results.append(
                {
                    "image_id": row["image_id"],
                    "category_id": category_id,
                    "bbox": [*box[:2].tolist(), *box[2:].clip(1).tolist()],
                    "score": float(random.random()),
                }
            )
    return results

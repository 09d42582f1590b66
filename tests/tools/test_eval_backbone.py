"""A classifier's metrics: the share of hits of each class, in one pass over the images."""

import time

import numpy as np

from tools.scoring.classification import share_by_class


def test_shares_by_class_leave_out_classes_without_images():
    hits, labels = np.array([True, False, True, True]), np.array([2, 2, 0, 2])
    assert share_by_class(hits, labels, ["a", "b", "c"]) == {"a": 1.0, "c": 2 / 3}


def test_shares_of_all_of_imagenet_take_one_pass():
    labels = np.random.default_rng(0).integers(0, 1000, 50_000)
    start = time.process_time()
    shares = share_by_class(labels % 2 == 0, labels, [f"n{number}" for number in range(1000)])
    assert time.process_time() - start < 0.5  # classes times images is 50 million steps
    assert shares["n2"] == 1 and shares["n3"] == 0 and len(shares) == 1000

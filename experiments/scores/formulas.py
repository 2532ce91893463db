"""The scores of DD-Ranking: formulas of accuracies, which are fractions.

https://github.com/NUS-HPC-AI-Lab/DD-Ranking (ddranking 0.2.0, metrics/soft_label.py and
metrics/aug_robust.py), with both weights at their default, a half. That package puts
percents into the exponential function, where its own paper has fractions, as here: so a
score is between 0 and 1, and a set that is as good as random images and as all images
has `squash(0)`, 0.269.
"""

import math


def hard_label_recovery(whole: float, hard: float) -> float:
    """Returns HLR: what networks lose against training on all images.

    Both are trained on classes, even if the set has soft labels. Small is good.
    """
    return whole - hard


def improvement_over_random(accuracy: float, random: float) -> float:
    """Returns IOR: what networks gain over random real images, as many of them."""
    return accuracy - random


def label_robust_score(hlr: float, ior: float) -> float:
    """Returns LRS, from both of these. Large is good."""
    return squash((ior - hlr) / 2)


def augmentation_robust_score(augmented: float, plain: float) -> float:
    """Returns ARS, from the improvements over random with and without augmentation."""
    return squash((augmented + plain) / 2)


def squash(value: float) -> float:
    """Maps -1 to 0, and 1 to 1."""
    return (math.exp(value) - math.exp(-1)) / (math.exp(1) - math.exp(-1))

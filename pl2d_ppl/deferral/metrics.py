"""Metrics of a deferring system: coverage, accuracy, the area under their curve, and calibration.

Everything here is computed on the host, in float64, from decisions already made.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pl2d_ppl.checks.labels import check_labels

__all__ = [
    "area_under_curve",
    "expected_calibration_error",
    "final_labels",
]


def final_labels(decision: ArrayLike, annotations: ArrayLike, ai_labels: ArrayLike) -> NDArray:
    """Return the label that the decision-maker of each item gives.

    Parameters
    ----------
    decision : array of int, shape (N,)
        Decision-maker: expert 0..M−1, or M for the AI.
    annotations : array of int, shape (N, M)
        Labels that the experts gave, −1 where missing.
    ai_labels : array of int, shape (N,)
        Labels that the AI gives.

    Returns
    -------
    array of int32, shape (N,)
        Final labels, −1 where the decision-maker gave no annotation.

    Raises
    ------
    ValueError
        If shapes disagree or a decision is out of range.
    """
    ai_labels = _vector("ai_labels", ai_labels)
    annotations = check_labels("annotations", annotations, (len(ai_labels), "M"))
    decision = _decision(decision, annotations.shape[1])
    if decision.shape != ai_labels.shape:
        raise ValueError(
            f"Expected decision of shape {ai_labels.shape}, as ai_labels, found {decision.shape}. Match them."
        )
    said = np.column_stack([annotations, ai_labels]).astype(np.int32)
    return said[np.arange(len(said)), decision]


def area_under_curve(
    coverage: ArrayLike,
    accuracy: ArrayLike,
    expert_accuracy: float | None = None,
    ai_accuracy: float | None = None,
) -> float:
    r"""Compute the area under the coverage-accuracy curve, times 100.

    The trapezoidal rule over realised coverage :math:`\kappa` on [0, 1]:

    .. math:: 100 \sum_j (\kappa_{j+1} - \kappa_j) \frac{a_j + a_{j+1}}{2}

    - Several points: sorted by coverage, and extended flat to 0 and to 1 from the nearest point.
      Accuracies at equal coverage are averaged, so that the order of the points does not matter.
    - One point, of a method that cannot steer its coverage: joined to the two extremes, the best single
      expert at coverage 0 and the AI at coverage 1.

    When you report an area, state the grid of bounds of its points: the area depends on it.

    Parameters
    ----------
    coverage : array of float in [0, 1], shape (P,)
        Realised coverages.
    accuracy : array of float in [0, 1], shape (P,)
        Accuracies of the system at these coverages.
    expert_accuracy, ai_accuracy : float in [0, 1], optional
        Accuracy of the best single expert and of the AI; needed for one point, and not used for several.

    Returns
    -------
    float
        Area, in [0, 100].

    Raises
    ------
    ValueError
        If there is no point, shapes disagree, a value lies outside [0, 1], or the extremes of a single point
        are not given.

    References
    ----------
    Nguyen, Do and Carneiro, "Probabilistic Learning to Defer: Handling Missing Expert's Annotations and
    Controlling Workload Distribution", ICLR 2025.
    """
    x, heights = _unit("coverage", coverage), _unit("accuracy", accuracy)
    if x.shape != heights.shape:
        raise ValueError(f"Expected accuracy of shape {x.shape}, as coverage, found {heights.shape}. Match them.")
    if len(x) == 1:
        if expert_accuracy is None or ai_accuracy is None:
            raise ValueError(
                f"Expected both extremes beside a single point, found expert_accuracy {expert_accuracy} and "
                f"ai_accuracy {ai_accuracy}. Pass the accuracy of the best expert and of the AI."
            )
        x = np.array([0.0, x[0], 1.0])
        heights = np.array(
            [*_unit("expert_accuracy", [expert_accuracy]), heights[0], *_unit("ai_accuracy", [ai_accuracy])]
        )
    else:
        x, inverse, sizes = np.unique(x, return_inverse=True, return_counts=True)
        heights = np.bincount(inverse, heights) / sizes
        x, heights = np.array([0.0, *x, 1.0]), heights[[0, *range(len(x)), -1]]
    return 100 * float(np.trapezoid(heights, x))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, num_bins: int = 15) -> float:
    r"""Compute the expected calibration error.

    Items are sorted into `num_bins` bins of equal width by confidence, ((b−1)/B, b/B] with 0 in the first:

    .. math:: \sum_b \frac{n_b}{N} \, | \mathrm{accuracy}_b - \mathrm{confidence}_b |

    It applies to the AI (its largest probability, and whether it was right) and to the gate as a forecast ("this person
    would be right", and whether they were).

    Parameters
    ----------
    confidence : array of float in [0, 1], shape (N,)
        Forecast probabilities of being right.
    correct : array of bool or of 0 and 1, shape (N,)
        Whether each forecast was right.
    num_bins : int, default 15
        Number of bins, B.

    Returns
    -------
    float
        The error, in [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, there is no item, or a value is out of range.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    confidence, correct = _unit("confidence", confidence), np.asarray(correct)
    if correct.shape != confidence.shape or not np.isin(correct, (0, 1)).all():
        raise ValueError(
            f"Expected correct as booleans of shape {confidence.shape}, as confidence, found dtype {correct.dtype} and "
            f"shape {correct.shape}. Compare labels with the truth."
        )
    if num_bins < 1:
        raise ValueError(f"Expected num_bins of at least 1, found {num_bins}. Pass a number such as 15.")
    bins = np.digitize(confidence, np.linspace(0, 1, num_bins + 1)[1:-1], right=True)
    # n_b |accuracy_b − confidence_b| is the size of a sum of differences: empty bins need no special case.
    gaps = np.bincount(bins, correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def _vector(
    name: str, values: ArrayLike, num_categories: int | None = None, *, least: int = -1, noun: str = "labels"
) -> NDArray:
    values = check_labels(name, values, ("N",), num_categories, least=least, noun=noun)
    if not values.size:
        raise ValueError(f"Expected at least one item in {name}, found none. Pass some.")
    return values


def _decision(decision: ArrayLike, ai_index: int) -> NDArray:
    noun = f"decisions (the AI is {ai_index})"  # it comes after the people
    return _vector("decision", decision, ai_index + 1, least=0, noun=noun)


def _unit(name: str, values: ArrayLike) -> NDArray:
    values = np.asarray(values, float)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            f"Expected {name} as a non-empty vector, found shape {values.shape}. Pass one number for each point."
        )
    # Softmax in float32 may exceed 1 by a rounding error; a percentage or a NaN is another matter.
    outside = values[~((values >= -1e-5) & (values <= 1 + 1e-5))]
    if outside.size:
        raise ValueError(f"Expected {name} in [0, 1], found {outside[0]}. Pass shares, not percentages or NaN.")
    return values.clip(0, 1)

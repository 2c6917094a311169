"""From which figure on a finding is a warning. Each stands here once, with its reason."""

SMALL = 0.01
"""Losses that matter to no one: a probability of the right class that is lower by one per cent."""

WIDE_GAP = 0.1
"""Optimisation gap as a share of the surrogate loss: below it the network is within a tenth of the best of
its ball.
"""

WEAK = 0.05
"""Attack gap as a share of the loss: more than two runs of one attack from other random starts differ by."""

WEAK_ACCURACY = 0.05
"""Accuracy that stronger attacks take beyond the attack of training. From ordinary adversarial training
AutoAttack takes three to four points beyond PGD (Croce and Hein 2020, arXiv 2003.01690): more is a weak
attack.
"""

STUCK = 0.25
"""Loss over that of guessing, log(classes), below which a network is not called stuck."""

OVERFITTED = 0.1
"""Robust accuracy on the training part less that on the test part, under the same attacks. Some of it is the
ordinary case; robust overfitting (Rice et al. 2020, arXiv 2002.11569) opens tens of points while the test
accuracy falls by several.
"""

COLLAPSED = 0.5
"""Robust accuracy over the best of an earlier epoch below which it has collapsed: catastrophic overfitting takes
nearly all of it within an epoch (Wong et al. 2020, arXiv 2001.03994).
"""

MEANT = 0.2
"""Best robust accuracy below which a fall says nothing: it may be noise."""

DECLINED = 0.05
"""Robust accuracy at the end less than the best of an earlier epoch, in shares, from which on the last weights are not
the ones to use. Rice et al. 2020 (arXiv 2002.11569) lose five to eight points.
"""

GUESSING = 0.05
"""Share of the errors of always naming the largest class that a network must avoid to have learnt something."""

LAGGING = 0.25
"""Robust accuracy of all classes less that of one: a class this far behind is hidden by the mean."""

FEW_OF_CLASS = 20
"""Examples of a class below which its accuracy is not judged: a share of 20 is off by 11 points by
chance.
"""

FEW = 100
"""Test examples below which accuracies are off by more than 5 points by chance: sqrt(p (1 - p) / n) at p =
1/2.
"""

RARE = 0.1
"""Share of an even part of the examples below which a class is rare."""

TIGHT = 0.9
"""Reach of the threat over the smallest distance of differently labelled examples, from which on few
robust classifiers are left.
"""

RISING = 1.05
"""Last online loss over the first from which on training went astray; less is noise of the batches."""

FALLING = 0.02
"""Share by which the online loss of the last quarter of the epochs must still have fallen to be called
falling.
"""

FEWEST_EPOCHS = 4
"""Epochs below which no trend is read from the losses."""

AT_EDGE = 0.99
"""Drift over radius from which on the ball holds the weights back."""

GENEROUS = 0.5
"""Drift over radius below which the ball is larger than training needs."""

UNREACHABLE = 100.0
"""Width factor from which on a wider network is no remedy: it takes as many times the time and the memory."""

CURVED = 1.5
"""Width factor from which on the lower bound is loose mostly for want of width; at 1 curvature costs
nothing.
"""

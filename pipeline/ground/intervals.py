"""The constant of 95 % intervals."""

NORMAL_QUANTILE = 1.959964
"""The 97.5 % quantile of the normal distribution: an interval reaches so many standard deviations to either side."""

"""Whole jobs over all other parts: configuration, training, certifying, examining. `config` and `options`
need no torch.
"""

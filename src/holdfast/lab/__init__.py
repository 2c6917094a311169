"""Experiments: sweeps, the smallest capacity, the claims of the theory. They may change from one version
to the next without notice.
"""

"""Every setting of a run: names, defaults, limits and help; read from options and YAML, and built into
what the jobs take.
"""

"""Run folders: everything a run leaves behind, readable without executing code. Torch is imported by those
who need it.
"""

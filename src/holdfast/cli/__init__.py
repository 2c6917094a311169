"""The command line: parse, call a job, print. Nothing here imports torch before something runs."""

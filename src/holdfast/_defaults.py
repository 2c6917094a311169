"""What is left out, where several functions or a command share it: written once, read by signatures and by
the command line.

Training's defaults are `holdfast.config.schema.RunConfig`. Only plain values are here, so that help comes
without torch.
"""

SEED = 0
ATTACKS = "standard"
"""Suite of an evaluation."""
VERIFY = "auto"
"""Bounds of an evaluation: all that apply, the cheapest first."""
VERIFY_SECONDS = 30.0
"""For all bounds of an evaluation together."""
PART = "test"
WEIGHTS = "last"
ACCELERATOR = "cpu"
PROCESSES = 1
TIGHTEN = 40
"""Evaluations of a certificate's bound while it is raised."""
TARGET_LOSS = 0.1
"""Robust loss that a plan works out radius and width for."""
TARGET_GAP = 0.01
PLAN_EXAMPLES = 400
PROBE_WIDTH = 1024
"""Of the network that a plan looks at, and the most that it tries the cost of training at."""
PROPERTY_SECONDS = 60.0
"""For the answer to a VNN-LIB property."""
HIDDEN_LAYERS = 1
BACKEND = "joblib"

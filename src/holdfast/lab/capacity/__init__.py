"""How wide a network must be to fit plainly and robustly: found by search with every fit proved, bounded
below by theory.
"""

from holdfast.lab.capacity.results import Attempt as Attempt
from holdfast.lab.capacity.results import Bracket as Bracket
from holdfast.lab.capacity.results import Capacity as Capacity
from holdfast.lab.capacity.results import Widths as Widths
from holdfast.lab.capacity.smallest import smallest_width as smallest_width

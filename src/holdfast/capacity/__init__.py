"""How wide a network must be to fit plainly and robustly: found by search with every fit proved, bounded below by theory."""

from holdfast.capacity.results import Attempt as Attempt
from holdfast.capacity.results import Bracket as Bracket
from holdfast.capacity.results import Capacity as Capacity
from holdfast.capacity.results import Widths as Widths
from holdfast.capacity.smallest import smallest_width as smallest_width

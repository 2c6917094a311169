"""A family's own bound of curvature: a proof for exactly its networks."""

from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

from torch import nn

from holdfast.curvature.base import Curvature
from holdfast.errors import InputError
from holdfast.families.exact import Core, exact_core, why_not_exact

N = TypeVar("N", bound=nn.Module)


class FamilyCurvature(Curvature, Generic[N]):
    """A bound that is proved for the networks of one class, where they are exactly as written.

    `unsuited` names what else keeps the bound from holding.

    Attributes:
        network: the class.
        word: what its networks are called, as in "this two-layer network".

    >>> import holdfast as hf
    >>> hf.families.TwoLayerCurvature().word
    'two-layer'
    """

    network: ClassVar[type[nn.Module]]
    word: ClassVar[str]

    @property
    def rigorous(self) -> bool:
        return True

    def unproved(self, model: nn.Module) -> str:
        core = exact_core(model)
        if core is None:
            return why_not_exact(model)
        if not isinstance(core.network, self.network):
            return f"the {self.word} bound is not one for {type(core.network).__name__}"
        if type(self) is not type(core.family.curvature()):
            return super().unproved(model)
        return self.unsuited(core.network)  # type: ignore[arg-type]

    @abstractmethod
    def unsuited(self, network: N) -> str:
        """Why the bound does not hold for this network of the class; empty where it does."""

    def core(self, model: nn.Module) -> Core:
        """The network of the class inside a model.

        Raises:
            InputError: there is none.
        """
        core = exact_core(model)
        if core is None or not isinstance(core.network, self.network):
            why = why_not_exact(model) or f"{type(model).__name__} is another network"
            raise InputError(
                f"this curvature is proved for {self.network.__name__} networks alone, but {why}; leave "
                "curvature out."
            )
        return core

    def inside(self, model: nn.Module) -> N:
        """The network of `core`."""
        network: N = self.core(model).network  # type: ignore[assignment]
        return network

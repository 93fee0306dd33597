"""SGD: the gradient at w, one forward and one backward."""

from torch import Tensor

from sam.optimizers.base import Closure, Gradients, Method


class SGD(Method):
    """The base optimizer under the common contract; `rho` has no effect."""

    moves = False

    def run_passes(self, closure: Closure, ascent: Closure) -> tuple[Tensor, Gradients]:
        loss, gradient = self.evaluate(closure)
        self.record_first(gradient)
        return loss, gradient

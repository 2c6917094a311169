"""A layer that autograd can differentiate and `torch.func` cannot."""

import torch
from torch import nn


class Opaque(torch.autograd.Function):
    """Differentiable by autograd, not by `torch.func`."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        return gradient * scale, (gradient * x).sum(0)


class OpaqueScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return Opaque.apply(x, self.scale)

"""A diagonal state-space layer: one linear recurrence a channel, computed as a convolution or step by step.

Each channel u has n complex states, x' = A x + u with A = -exp(a) + i b, read by y = 2 Re(C x) + D u. Held constant
over a step of length dt (zero-order hold), that is x_t = e^(A dt) x_(t-1) + (e^(A dt) - 1) / A u_t, so y is u convolved
with K_l = 2 Re sum_n C_n (e^(A_n dt) - 1) / A_n e^(A_n dt l): all positions at once by FFT in O(L log L), or one at a
time in O(n). Both are the same function. Without causality a second set of C reads the future, one step ahead on.

S4 with a diagonal state matrix: arXiv 2111.00396, initialised as "S4D-Lin" of arXiv 2206.11893 (b = pi n, exp(a) =
1/2). Everything is kept as real numbers; e^z is computed as a decay times cosine and sine, four times as fast as a
complex one.
"""

from __future__ import annotations

import math

import torch
from torch import nn

_STEPS = (1e-3, 1e-1)  # range of dt at the start


class StateSpace(nn.Module):
    """Mixes positions of every channel by its own diagonal state space.

    Args:
        width: channels.
        states: complex states of a channel.
        causal: whether a position sees itself and the past only; otherwise the future as well.
    """

    def __init__(self, width: int, states: int, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        low, high = math.log(_STEPS[0]), math.log(_STEPS[1])
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(width))
        self.log_decay = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).float().repeat(width, 1))
        self.read = nn.Parameter(torch.randn(1 if causal else 2, 2, width, states) * 0.5**0.5)
        self.through = nn.Parameter(torch.randn(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same shape, by FFT."""
        length = hidden.shape[1]
        kernel = nn.functional.pad(self.kernel(length), (0, length))
        if not self.causal:
            # Lag -1 - j stands at 2 length - 1 - j of a circular convolution over 2 length positions.
            kernel = kernel + nn.functional.pad(self.kernel(length, ahead=True).flip(-1), (length, 0))
        spectrum = torch.fft.rfft(hidden.mT, n=2 * length) * torch.fft.rfft(kernel)
        mixed: torch.Tensor = torch.fft.irfft(spectrum, n=2 * length)[..., :length].mT
        return mixed + self.through * hidden

    def kernel(self, length: int, ahead: bool = False) -> torch.Tensor:
        """What a unit impulse gives at lags 0, 1, …; with `ahead` what it gives before it, at lags -1, -2, …

        Returns:
            [width, length].
        """
        real, imaginary = self._poles()
        lags = torch.arange(length, device=real.device)
        decay, phase = torch.exp(real[..., None] * lags), imaginary[..., None] * lags
        gain = self._gains(ahead)
        return 2 * (decay * (gain[0][..., None] * phase.cos() - gain[1][..., None] * phase.sin())).sum(1)

    def step(self, state: torch.Tensor, now: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One position further.

        Args:
            state: real and imaginary parts, [2, rows, width, states]; zeros at the start.
            now: the input, [rows, width].

        Returns:
            The next state, and the output [rows, width].
        """
        real, imaginary = self._poles()
        decay, turn = torch.exp(real), (imaginary.cos(), imaginary.sin())
        entering = now[..., None]
        state = torch.stack([
            decay * (turn[0] * state[0] - turn[1] * state[1]) + entering,
            decay * (turn[1] * state[0] + turn[0] * state[1]),
        ])  # fmt: skip
        gain = self._gains(False)
        return state, 2 * (gain[0] * state[0] - gain[1] * state[1]).sum(-1) + self.through * now

    def start(self, rows: int) -> torch.Tensor:
        """The state before the first position, [2, rows, width, states]."""
        return torch.zeros(2, rows, *self.log_decay.shape, device=self.log_decay.device)

    def _poles(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Real and imaginary part of A dt, [width, states] each."""
        step = self.log_step.exp()[:, None]
        return -self.log_decay.exp() * step, self.frequency * step

    def _gains(self, ahead: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """C (e^(A dt) - 1) / A as real and imaginary part, [width, states] each."""
        real, imaginary = self._poles()
        decay = torch.exp(real)
        top = decay * imaginary.cos() - 1, decay * imaginary.sin()
        below = -self.log_decay.exp(), self.frequency
        square = below[0].square() + below[1].square()
        held = (top[0] * below[0] + top[1] * below[1]) / square, (top[1] * below[0] - top[0] * below[1]) / square
        read = self.read[1 if ahead else 0]
        return read[0] * held[0] - read[1] * held[1], read[0] * held[1] + read[1] * held[0]

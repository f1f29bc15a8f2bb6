"""What the engine is handed to call, each named once."""

from collections.abc import Callable

from torch import Tensor

Denoise = Callable[[Tensor, int], Tensor]  # denoise(x, i) -> x0_hat at sigmas[i], of x's shape
Model = Callable[[Tensor, float], Tensor]  # model(x, sigma) -> x0_hat, where no list of sigmas is known yet
Noise = Callable[[int], Tensor]  # noise(i) -> z ~ N(0, I), of x's shape, for the jump from sigmas[i]
Clip = Callable[[Tensor], Tensor]  # clip(x0_hat) -> x0_hat
Callback = Callable[[int, Tensor, Tensor], None]  # callback(i, x, x0_hat) before the jump from sigmas[i]

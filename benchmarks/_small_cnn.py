"""SmallCNN (without dropout) in naive JAX, with our layers, and in eager PyTorch, on equal weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.numerics.convolution import conv2d
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.numerics.pooling import max_pool

EPS, STEP = 0.3, 0.01
CONVOLUTIONS = ((3, 3, 1, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64))
DENSE = ((1024, 200), (200, 200), (200, 10))


class Problem(NamedTuple):
    """Weights and a batch."""

    params: list[tuple[np.ndarray, np.ndarray]]
    images: np.ndarray
    labels: np.ndarray


def problem(batch_size: int) -> Problem:
    """Random weights of He's scale and random images; speed does not depend on the values."""
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(0, np.sqrt(2 / np.prod(s[:-1])), s).astype(np.float32), np.zeros(s[-1], np.float32))
        for s in CONVOLUTIONS + DENSE
    ]
    images = rng.random((batch_size, 28, 28, 1), np.float32)
    return Problem(params, images, rng.integers(0, 10, batch_size).astype(np.int32))


def _naive_block(x, first, second):
    def conv(x, layer):
        y = lax.conv_general_dilated(x, layer[0], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y + layer[1])

    x = conv(conv(x, first), second)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _our_block(x, first, second):
    x = jax.nn.relu(conv2d(x, first[0]) + first[1])
    # Bias and relu after the pooling: the same values and gradients on a quarter of the numbers.
    return jax.nn.relu(max_pool(conv2d(x, second[0])) + second[1])


def logits(block: Callable, params, x):
    """`x` `[b, h, w, c]` to logits; `params`: (kernel, bias) of conv1 to conv4 and fc1 to fc3."""
    x = block(block(x, *params[:2]), *params[2:4])
    x = x.reshape(x.shape[0], -1)
    for kernel, bias in params[4:6]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ params[6][0] + params[6][1]


def jax_steps(block: Callable, num_steps: int) -> tuple[Callable, Callable]:
    """(attack(params, x, y) -> images of PGD, train(params, x, y) -> gradients), to be jitted."""

    def attack(params, x, y):
        def loss(image):
            return cross_entropy(logits(block, params, image), y).sum()

        def step(_, image):
            return jnp.clip(jnp.clip(image + STEP * jnp.sign(jax.grad(loss)(image)), x - EPS, x + EPS), 0, 1)

        return lax.fori_loop(0, num_steps, step, x)

    def train(params, x, y):
        return jax.grad(lambda p: cross_entropy(logits(block, p, x), y).mean())(params)

    return attack, train


NAIVE, OURS = _naive_block, _our_block


def torch_steps(torch: Any, data: Problem, num_steps: int, channels_last: bool) -> tuple[Callable, Callable]:
    """The same two steps as thunks in eager PyTorch; the attack takes no gradients of weights."""
    nn, functional = torch.nn, torch.nn.functional
    convs = [nn.Conv2d(s[2], s[3], 3) for s in CONVOLUTIONS]
    dense = [nn.Linear(*s) for s in DENSE]
    with torch.no_grad():
        for n, (layer, (kernel, bias)) in enumerate(zip(convs + dense, data.params, strict=True)):
            if n == len(convs):  # PyTorch flattens channels first
                kernel = kernel.reshape(4, 4, 64, -1).transpose(2, 0, 1, 3).reshape(1024, -1)
            layer.weight.copy_(
                torch.from_numpy(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T)
            )
            layer.bias.copy_(torch.from_numpy(bias))
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    block = (convs[0], relu, convs[1], relu, pool, convs[2], relu, convs[3], relu, pool)
    net = nn.Sequential(*block, nn.Flatten(), dense[0], relu, dense[1], relu, dense[2])
    x = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(data.labels).long()
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    params = list(net.parameters())

    def attack():
        net.requires_grad_(False)
        image = x
        for _ in range(num_steps):
            image = image.detach().requires_grad_(True)
            loss = functional.cross_entropy(net(image), y, reduction="sum")
            (grad,) = torch.autograd.grad(loss, image)
            image = torch.clamp(torch.clamp(image.detach() + STEP * grad.sign(), x - EPS, x + EPS), 0, 1)
        return image.permute(0, 2, 3, 1).numpy()

    def train():
        net.requires_grad_(True)
        return torch.autograd.grad(functional.cross_entropy(net(x), y), params)

    return attack, train

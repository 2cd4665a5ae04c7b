"""Makes tests/models/golden/*.npz: what PyTorch nets, written apart from this library, answer. Needs torch.

    python tests/models/make_golden.py [--full FOLDER]

Each file holds logits and the names and shapes of the state dict; weights and images come from the seed by
NumPy (golden/weights.py). With --full, two nets of published size go to FOLDER; the slow test then
reads it from JAXROBUST_FULL_GOLDEN.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))

import weights  # noqa: E402


def conv3(a, b, stride=1):
    return nn.Conv2d(a, b, 3, stride, 1, bias=False)


class Small(nn.Module):
    """Layers named as in TRADES."""

    def __init__(self):
        super().__init__()
        self.feature_extractor, self.classifier = nn.Module(), nn.Module()
        for i, (a, b) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)], start=1):
            self.feature_extractor.add_module(f"conv{i}", nn.Conv2d(a, b, 3))
        for i, (a, b) in enumerate([(1024, 200), (200, 200), (200, 10)], start=1):
            self.classifier.add_module(f"fc{i}", nn.Linear(a, b))

    def forward(self, x):
        f, c = self.feature_extractor, self.classifier
        x = F.max_pool2d(f.conv2(f.conv1(x).relu()).relu(), 2)
        x = F.max_pool2d(f.conv4(f.conv3(x).relu()).relu(), 2)
        return c.fc3(c.fc2(c.fc1(x.flatten(1)).relu()).relu())


class PreActUnit(nn.Module):
    def __init__(self, a, b, stride, activated):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv3(a, b, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv3(b, b)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False)) if stride > 1 or a != b else None
        )
        self.activated = activated

    def forward(self, x):
        y = self.bn1(x).relu()
        skip = x if self.shortcut is None else self.shortcut(y if self.activated else x)
        return self.conv2(self.bn2(self.conv1(y)).relu()) + skip


class PreAct(nn.Module):
    def __init__(self, width, activated, final_norm, normalised):
        super().__init__()
        self.conv1, a = conv3(3, width), width
        for i in range(4):
            b, stride = width * 2**i, 1 if i == 0 else 2
            units = PreActUnit(a, b, stride, activated), PreActUnit(b, b, 1, activated)
            self.add_module(f"layer{i + 1}", nn.Sequential(*units))
            a = b
        self.bn = nn.BatchNorm2d(a) if final_norm else None
        self.linear = nn.Linear(a, 10)
        self.normalised = normalised
        if normalised:
            self.register_buffer("mu", torch.zeros(1, 3, 1, 1))
            self.register_buffer("sigma", torch.ones(1, 3, 1, 1))

    def forward(self, x):
        x = (x - self.mu) / self.sigma if self.normalised else x
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        x = x if self.bn is None else self.bn(x).relu()
        return self.linear(x.mean((2, 3)))


class WideUnit(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv3(a, b, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv3(b, b)
        self.convShortcut = nn.Conv2d(a, b, 1, stride, bias=False) if a != b else None

    def forward(self, x):
        y = self.bn1(x).relu()
        skip = x if self.convShortcut is None else self.convShortcut(y)
        return self.conv2(self.bn2(self.conv1(y)).relu()) + skip


class WideStage(nn.Module):
    def __init__(self, a, b, stride, count):
        super().__init__()
        self.layer = nn.Sequential(WideUnit(a, b, stride), *(WideUnit(b, b, 1) for _ in range(count - 1)))

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    def __init__(self, depth, k):
        super().__init__()
        n = (depth - 4) // 6
        self.conv1 = conv3(3, 16)
        self.block1 = WideStage(16, 16 * k, 1, n)
        self.sub_block1 = WideStage(16, 16 * k, 1, n)  # in TRADES' files, never used
        self.block2, self.block3 = WideStage(16 * k, 32 * k, 2, n), WideStage(32 * k, 64 * k, 2, n)
        self.bn1, self.fc = nn.BatchNorm2d(64 * k), nn.Linear(64 * k, 10)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.bn1(x).relu().mean((2, 3)))


MU, SIGMA = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]
# name: (net, images [b, h, w, c], prefix of the names)
CASES = {
    "small_cnn": (lambda: Small(), (4, 28, 28, 1), ""),
    "preact_raw": (lambda: PreAct(8, False, False, False), (3, 32, 32, 3), ""),
    "preact_activated": (lambda: PreAct(8, True, True, True), (3, 32, 32, 3), "module."),
    "wrn_16_2": (lambda: Wide(16, 2), (3, 32, 32, 3), "module."),
    "wrn_10_1": (lambda: Wide(10, 1), (3, 32, 32, 3), ""),
}
FULL = {
    "full_preact": (lambda: PreAct(64, True, True, True), (2, 32, 32, 3), ""),
    "full_wrn_34_10": (lambda: Wide(34, 10), (2, 32, 32, 3), "module."),
}


def write(folder, name, net, shape, prefix, seed):
    """One golden file; the images' and weights' seeds are `seed` and `seed + 1`."""
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    state = weights.state_dict(shapes, seed + 1)
    for key, values in (("mu", MU), ("sigma", SIGMA)):
        if key in state:
            state[key] = np.array(values, np.float32).reshape(1, 3, 1, 1)
    net.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    x = torch.from_numpy(weights.images(shape, seed).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        logits = net.eval()(x).numpy()
    names = json.dumps({prefix + key: value for key, value in shapes.items()})
    np.savez_compressed(folder / f"{name}.npz", logits=logits, shapes=names, images=shape, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", type=Path, help="also write the nets of published size to this folder")
    options = parser.parse_args()
    torch.manual_seed(0)
    for number, (name, (make, shape, prefix)) in enumerate(CASES.items()):
        write(GOLDEN, name, make(), shape, prefix, 100 + 10 * number)
    if options.full:
        for number, (name, (make, shape, prefix)) in enumerate(FULL.items()):
            write(options.full, name, make(), shape, prefix, 200 + 10 * number)

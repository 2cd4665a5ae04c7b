"""Wide ResNet in PyTorch with the names of TRADES, the twin of `jaxrobust.models.WideResNet`."""

import torch
from torch import nn
from torch.nn import functional


class _Block(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the shortcut."""

    def __init__(self, before: int, features: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, features, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        if before != features:
            self.convShortcut = nn.Conv2d(before, features, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(x))
        shortcut = self.convShortcut(y) if hasattr(self, "convShortcut") else x
        return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + shortcut


class _Stage(nn.Module):
    """`per_stage` blocks, the first of which changes width and size."""

    def __init__(self, per_stage: int, before: int, features: int, stride: int):
        super().__init__()
        blocks = [_Block(before, features, stride)]
        blocks += [_Block(features, features, 1) for _ in range(per_stage - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 blocks, widths 16 k, 32 k, 64 k; no dropout."""

    def __init__(self, num_classes: int = 10, depth: int = 34, widen_factor: int = 10):
        super().__init__()
        per_stage, widths = (depth - 4) // 6, [16, *(16 * 2**stage * widen_factor for stage in range(3))]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        for stage in range(3):
            block = _Stage(per_stage, widths[stage], widths[stage + 1], 2 if stage else 1)
            setattr(self, f"block{stage + 1}", block)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))

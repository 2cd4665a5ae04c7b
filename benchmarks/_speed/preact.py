"""PreActResNet-18 in PyTorch with RobustBench's names, the twin of `jaxrobust.models.PreActResNet18`."""

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
        if stride != 1 or before != features:
            self.shortcut = nn.Sequential(nn.Conv2d(before, features, 1, stride, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(x))
        shortcut = self.shortcut(y) if hasattr(self, "shortcut") else x
        return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + shortcut


class PreActResNet18(nn.Module):
    """Four stages of two blocks, widths 64 to 512; BatchNorm and ReLU before the pooling."""

    def __init__(self, num_classes: int = 10, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        before = width
        for stage in range(4):
            features = width * 2**stage
            blocks = [_Block(before, features, 1 if stage == 0 else 2), _Block(features, features, 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            before = features
        self.bn = nn.BatchNorm2d(before)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.linear(functional.relu(self.bn(x)).mean((2, 3)))

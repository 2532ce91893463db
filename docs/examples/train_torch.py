"""Trains a PyTorch network on condensed digits: train_torch.py SET.safetensors"""

import json
import sys

import torch
from digits import load_tests
from safetensors import safe_open
from torch import nn

with safe_open(sys.argv[1], framework="pt") as file:
    names = ("images", "labels", "mean", "std")
    images, labels, mean, std = map(file.get_tensor, names)
    recipe = json.loads(file.metadata()["recipe"])["training"]
images, labels = images[labels >= 0].movedim(-1, 1), labels[labels >= 0].long()
first = [nn.LazyConv2d(128, 3, padding=1), nn.GroupNorm(128, 128)]
second = [nn.LazyConv2d(128, 3, padding=1), nn.GroupNorm(128, 128)]
rest = [nn.ReLU(), nn.AvgPool2d(2)]
network = nn.Sequential(*first, *rest, *second, *rest, nn.Flatten(), nn.LazyLinear(10))
network(images[:1])
lr, momentum, decay = recipe["lr"], recipe["momentum"], recipe["weight_decay"]
optimiser = torch.optim.SGD(network.parameters(), lr, momentum, weight_decay=decay)
drop = torch.optim.lr_scheduler.MultiStepLR(optimiser, [recipe["epochs"] // 2 + 2])
for _ in range(recipe["epochs"] + 1):
    for batch in torch.randperm(len(labels)).split(recipe["batch_size"]):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimiser.step()
    drop.step()
tests, answers = map(torch.tensor, load_tests(mean.numpy(), std.numpy()))
right = network(tests.movedim(-1, 1)).argmax(-1) == answers
print(f"test accuracy {right.float().mean():.1%}")

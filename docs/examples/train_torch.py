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
# ConvNetW64D1, that of the recipe: one block of 64 channels, with instance norm.
block = [nn.Conv2d(1, 64, 3, padding=1), nn.GroupNorm(64, 64), nn.ReLU()]
network = nn.Sequential(*block, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 10))
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

"""Trains a PyTorch network on condensed digits: train_torch.py RUN_FOLDER"""

import sys

import torch
from digits import load_tests
from torch import nn

from dc_jax.torch import CondensedDataset

condensed = CondensedDataset(sys.argv[1])
images, labels = condensed.images, condensed.labels
recipe, mean, std = condensed.recipe["training"], condensed.mean, condensed.std
print(f"Training on {condensed} for {recipe['epochs'] + 1} epochs.", flush=True)
# ConvNetW64D1, that of the recipe: one block of 64 channels, with instance norm.
block = [nn.Conv2d(1, 64, 3, padding=1), nn.GroupNorm(64, 64), nn.ReLU()]
network = nn.Sequential(*block, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 10))
lr, momentum, decay = recipe["lr"], recipe["momentum"], recipe["weight_decay"]
optimiser = torch.optim.SGD(network.parameters(), lr, momentum, weight_decay=decay)
drop = torch.optim.lr_scheduler.MultiStepLR(optimiser, [recipe["epochs"] // 2 + 2])
for epoch in range(recipe["epochs"] + 1):
    for batch in torch.randperm(len(labels)).split(recipe["batch_size"]):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        loss.backward()
        optimiser.step()
    drop.step()
    if epoch % 50 == 0:
        print(f"epoch {epoch}: loss {loss.item():.4f}", flush=True)
tests, answers = map(torch.tensor, load_tests(mean.numpy(), std.numpy()))
right = network(tests.movedim(-1, 1)).argmax(-1) == answers
print(f"test accuracy {right.float().mean():.1%}")

"""Trains a Keras network on condensed digits: train_keras.py SET.npz"""

import json
import sys

import keras
import numpy as np
from digits import load_tests
from keras import layers

s = np.load(sys.argv[1])
recipe = json.loads(str(s["recipe"]))["training"]
images, labels = (s[name][s["labels"] >= 0] for name in ("images", "labels"))
first = [layers.Conv2D(128, 3, padding="same"), layers.GroupNormalization(128)]
second = [layers.Conv2D(128, 3, padding="same"), layers.GroupNormalization(128)]
pool = [layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(10)]
network = keras.Sequential(
    [*first, layers.ReLU(), layers.AveragePooling2D(2), *second, layers.ReLU(), *pool]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
steps = -(-len(labels) // recipe["batch_size"]) * (recipe["epochs"] // 2 + 2)
lr = keras.optimizers.schedules.PiecewiseConstantDecay(
    [steps], [recipe["lr"], recipe["lr"] / 10]
)
sgd = keras.optimizers.SGD(lr, recipe["momentum"])
network.compile(sgd, loss, metrics=["accuracy"])
size, epochs = recipe["batch_size"], recipe["epochs"] + 1
network.fit(images, labels, batch_size=size, epochs=epochs, verbose=0)
_, accuracy = network.evaluate(*load_tests(s["mean"], s["std"]), verbose=0)
print(f"test accuracy {accuracy:.1%}")

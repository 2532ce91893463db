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
decay = keras.regularizers.L2(recipe["weight_decay"] / 2)
# ConvNetW64D1, that of the recipe: one block of 64 channels, with instance norm.
conv = layers.Conv2D(64, 3, padding="same", kernel_regularizer=decay)
block = [conv, layers.GroupNormalization(64, epsilon=1e-5), layers.ReLU()]
last = [layers.Flatten(), layers.Dense(10, kernel_regularizer=decay)]
network = keras.Sequential([*block, layers.AveragePooling2D(2), *last])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
steps = -(-len(labels) // recipe["batch_size"]) * (recipe["epochs"] // 2 + 2)
lr = keras.optimizers.schedules.PiecewiseConstantDecay(
    [steps], [recipe["lr"], recipe["lr"] / 10]
)
sgd = keras.optimizers.SGD(lr, recipe["momentum"])
network.compile(sgd, loss, metrics=["accuracy"])
size, epochs = recipe["batch_size"], recipe["epochs"] + 1
print(f"Training on {len(images)} images for {epochs} epochs.", flush=True)
network.fit(images, labels, batch_size=size, epochs=epochs, verbose=0)
_, accuracy = network.evaluate(*load_tests(s["mean"], s["std"]), verbose=0)
print(f"test accuracy {accuracy:.1%}")

"""The model: three small convolutions and one dense layer, trained with jax, written as ONNX opset 17."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH, EPOCHS, RATE, SMOOTHING, DROPOUT = 128, 10, 2e-3, 0.05, 0.3
AVERAGED = 0.998  # the shipped weights are a running mean of the trained ones
CHANNELS = (16, 32, 48)


def fresh(key, side):
    """Random weights (He)."""
    shapes, before = {}, 1
    for i, after in enumerate(CHANNELS):
        shapes[f"conv{i}"] = (after, before, 3, 3)
        before = after
    shapes["dense"] = (10, before * (side // 4) ** 2)
    weights = {}
    for name, shape in shapes.items():
        key, use = jax.random.split(key)
        weights[name] = jax.random.normal(use, shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{name}_bias"] = jnp.zeros(shape[0])
    return weights


def logits(weights, x, dropout_key=None):
    """n x side x side x 1 to n x 10. Channels last and pooling by reshape, since jax is twice as fast so on a processor."""
    for i in range(len(CHANNELS)):
        x = jax.lax.conv_general_dilated(x, weights[f"conv{i}"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC"))
        x = jax.nn.relu(x + weights[f"conv{i}_bias"])
        if i < 2:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    if dropout_key is not None:
        x = x * jax.random.bernoulli(dropout_key, 1 - DROPOUT, x.shape) / (1 - DROPOUT)
    return x @ weights["dense"].T + weights["dense_bias"]


def loss(weights, x, y, key):
    """Cross entropy with smoothed labels."""
    target = jax.nn.one_hot(y, 10) * (1 - SMOOTHING) + SMOOTHING / 10
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits(weights, x, key)), axis=1))


@jax.jit
def update(weights, averaged, first, second, step, total, x, y, key):
    """One step of Adam, its rate falling along a cosine; and the running mean."""
    value, gradient = jax.value_and_grad(loss)(weights, x, y, key)
    rate = RATE * 0.5 * (1 + jnp.cos(jnp.pi * step / total))
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
    a, b = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
    weights = jax.tree.map(lambda w, m, v: w - rate * (m / a) / (jnp.sqrt(v / b) + 1e-8), weights, first, second)
    keep = jnp.minimum(AVERAGED, (step + 1) / (step + 10))
    averaged = jax.tree.map(lambda a, w: keep * a + (1 - keep) * w, averaged, weights)
    return weights, averaged, first, second, value


def train(inputs, answers, seed):
    """Trained weights as numpy arrays."""
    inputs = inputs[..., None].astype(np.float32)
    weights = fresh(jax.random.PRNGKey(seed), inputs.shape[1])
    averaged = weights
    first = second = jax.tree.map(jnp.zeros_like, weights)
    order = np.random.default_rng(seed)
    steps = len(inputs) // BATCH
    for epoch in range(EPOCHS):
        shuffled = order.permutation(len(inputs))
        total = 0.0
        for i in range(steps):
            chosen = shuffled[i * BATCH : (i + 1) * BATCH]
            step = epoch * steps + i
            weights, averaged, first, second, value = update(
                weights, averaged, first, second, step, EPOCHS * steps, inputs[chosen], answers[chosen], jax.random.PRNGKey(step)
            )
            total += float(value)
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {total / steps:.4f}", flush=True)
    return {name: np.asarray(value, dtype=np.float32) for name, value in averaged.items()}


def export(weights, side, path):
    """Writes the model: input `image` (n x 1 x side x side), output `logits` (n x 10)."""
    nodes, at = [], "image"
    for i in range(len(CHANNELS)):
        nodes.append(helper.make_node("Conv", [at, f"conv{i}", f"conv{i}_bias"], [f"c{i}"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        at = f"r{i}"
        if i < 2:
            nodes.append(helper.make_node("MaxPool", [at], [f"p{i}"], kernel_shape=[2, 2], strides=[2, 2]))
            at = f"p{i}"
    nodes.append(helper.make_node("Flatten", [at], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "dense", "dense_bias"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="bulkhead")
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def runner(path):
    """The exported file in ONNX Runtime: what is evaluated is what is shipped."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], {"image": batch})[0]

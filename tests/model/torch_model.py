"""The Sparse Transformer once more, in PyTorch with dense masked attention: the peer that sptx-model is compared
with. Reads and writes sptx-model's own files (config.yaml, checkpoint-STEP.safetensors) without any library."""
import json
import math
import pathlib
import struct

import torch
import torch.nn.functional as F


def read_config(path):
    """The keys of a config.yaml that sptx-model wrote: one `key: value  # meaning` a line."""
    config = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or ": " not in line:
            continue
        key, value = line.split("  # ")[0].split(": ", 1)
        value = value.strip()
        try:
            config[key.strip()] = json.loads(value)
        except ValueError:
            config[key.strip()] = value.strip("'")
    return config


def read_checkpoint(path):
    """Tensors by name, and the metadata."""
    raw = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(bytearray(raw[begin:end]), dtype=torch.float32).reshape(entry["shape"])
    return tensors, metadata


def write_checkpoint(path, tensors, metadata):
    header, offset = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        size = 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.detach().contiguous().numpy().tobytes())


def weights_of(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("adam.")}


def positions_of(config, length):
    """The index of each position in each of its tables."""
    at = torch.arange(length)
    side = {"cifar10": 32, "imagenet64": 64}.get(config["format"])
    if side:
        return [at // (3 * side) % side, at // 3 % side, at % 3]
    return [at // config["position_width"], at % config["position_width"]]


class Peer(torch.nn.Module):
    """weights: by sptx-model's names. mask(layer, head) -> (length, length) of bool, or None for dense causal
    attention through the fast path of scaled_dot_product_attention."""

    def __init__(self, config, weights, mask=None):
        super().__init__()
        self.config, self.mask = config, mask
        self.names = {name.replace(".", "_"): name for name in weights}
        for ours, name in self.names.items():
            self.register_parameter(ours, torch.nn.Parameter(weights[name].clone()))
        self.tables = positions_of(config, config["length"])
        self.masks = {}

    def w(self, name):
        return getattr(self, name.replace(".", "_"))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w(name + ".gain"), self.w(name + ".bias"), 1e-5)

    def mask_of(self, layer):
        if layer not in self.masks:
            heads = [self.mask(layer, head) for head in range(self.config["heads"])]
            self.masks[layer] = torch.stack(heads).unsqueeze(0)
        return self.masks[layer]

    def attention(self, x, layer, name):
        batch, length, width = x.shape
        heads, dim = self.config["heads"], width // self.config["heads"]
        qkv = F.linear(x, self.w(name + "attention.qkv.weight"), self.w(name + "attention.qkv.bias"))
        q, k, v = (t.reshape(batch, length, heads, dim).transpose(1, 2) for t in qkv.split(width, -1))
        scale = 1 / math.sqrt(round(dim * self.config["query_key"]))
        if self.mask is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_of(layer), scale=scale)
        out = out.transpose(1, 2).reshape(batch, length, width)
        return F.linear(out, self.w(name + "attention.projection.weight"),
                        self.w(name + "attention.projection.bias"))

    def feed_forward(self, x, name):
        u = F.linear(x, self.w(name + "feed_forward.expand.weight"), self.w(name + "feed_forward.expand.bias"))
        return F.linear(u * torch.sigmoid(1.702 * u), self.w(name + "feed_forward.contract.weight"),
                        self.w(name + "feed_forward.contract.bias"))

    def forward(self, tokens):
        """The mean loss in nats; tokens: (batch, length) of int64."""
        dropout, training = self.config["dropout"], self.training
        start = self.w("embedding.start").expand(len(tokens), 1, -1)
        h = torch.cat([start, F.embedding(tokens[:, :-1], self.w("embedding.token"))], 1)
        for k, index in enumerate(self.tables):
            h = h + self.w(f"embedding.position.{k}")[index]
        for layer in range(self.config["layers"]):
            name = f"layers.{layer}."
            h = h + F.dropout(self.attention(self.norm(h, name + "norm1"), layer, name), dropout, training)
            h = h + F.dropout(self.feed_forward(self.norm(h, name + "norm2"), name), dropout, training)
        logits = F.linear(self.norm(h, "norm"), self.w("output.weight"))
        return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())

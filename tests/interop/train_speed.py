"""The same llama, batch and threads as train_speed.cpp, in PyTorch (Debian's python3-torch)."""

import sys
import time

import torch
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
sequences = int(sys.argv[2]) if len(sys.argv) > 2 else 8
length = int(sys.argv[3]) if len(sys.argv) > 3 else 512
LAYERS, HIDDEN, HEADS, FFN, VOCAB = 12, 384, 6, 1024, 4096
torch.set_num_threads(threads)
torch.manual_seed(1)


def weight(*shape):
    return torch.nn.Parameter(torch.randn(*shape) * 0.02)


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.w


def rotated(x, cosine, sine):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, a * sine + b * cosine), -1)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.qkv, self.out = weight(3 * HIDDEN, HIDDEN), weight(HIDDEN, HIDDEN)
        self.gate_up, self.down = weight(2 * FFN, HIDDEN), weight(HIDDEN, FFN)

    def forward(self, x, cosine, sine, mask):
        n, t, _ = x.shape
        q, k, v = F.linear(self.norm1(x), self.qkv).view(n, t, 3 * HEADS, 64).transpose(1, 2).chunk(3, 1)
        q, k = rotated(q, cosine, sine), rotated(k, cosine, sine)
        p = torch.softmax(q @ k.transpose(-1, -2) * 0.125 + mask, -1)
        x = x + F.linear((p @ v).transpose(1, 2).reshape(n, t, HIDDEN), self.out)
        gate, up = F.linear(self.norm2(x), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Llama(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = weight(VOCAB, HIDDEN), weight(VOCAB, HIDDEN)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        angles = torch.arange(length)[:, None] * 10000 ** (-torch.arange(0, 64, 2) / 64)
        self.cosine, self.sine = angles.cos(), angles.sin()
        self.mask = torch.full((length, length), float("-inf")).triu(1)

    def forward(self, ids, targets):
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine, self.mask)
        return F.cross_entropy(F.linear(self.norm(x), self.head).view(-1, VOCAB), targets.view(-1))


model = Llama()
ids = torch.randint(VOCAB, (sequences, length))
targets = torch.randint(VOCAB, (sequences, length))
best = 1e9
for _ in range(4):
    begun = time.perf_counter()
    model.zero_grad()
    model(ids, targets).backward()
    best = min(best, time.perf_counter() - begun)
print(f"PyTorch {torch.__version__}: {sequences * length / best:.0f} tokens/s")

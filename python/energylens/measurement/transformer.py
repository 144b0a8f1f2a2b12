"""A small Llama-shaped model in plain PyTorch, with random weights, and the same model as a spec."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from energylens.inputs.form import check
from energylens.inputs.model import ModelSpec
from energylens.inputs.plan import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 8,
    "vocab_size": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
"""Its config: shapes that no kernel of the suites has."""

NAME: Final = "measured-llama"


@cache
def spec() -> LoadedModel:
    """Return the model as a spec, made from its config."""
    from energylens.inputs.hf import spec_from_hf

    document = spec_from_hf(CONFIG, NAME) | {"source": "random weights, measured by `energylens measure`"}
    return LoadedModel(check(ModelSpec, document, None, f"model {NAME}"))


class Transformer:
    """The model on a device: a prefill of whole prompts, and a decode step over a full cache.

    One matrix product each for queries, keys and values together, and for gate and up; norms, rotary embedding and
    activation are separate kernels, as PyTorch runs them without a compiler.
    """

    def __init__(self, torch: Any, device: str, config: dict[str, Any] | None = None) -> None:
        chosen: dict[str, Any] = CONFIG | (config or {})
        self.torch = torch
        self.width, self.inner = chosen["hidden_size"], chosen["intermediate_size"]
        self.heads, self.kv_heads = chosen["num_attention_heads"], chosen["num_key_value_heads"]
        self.head, self.words = chosen["head_dim"], chosen["vocab_size"]

        def weights(*shape: int) -> Any:
            drawn = torch.randn(*shape, device=device, dtype=torch.float32)
            return (drawn * shape[-1] ** -0.5).to(torch.bfloat16)

        widths = (self.heads + 2 * self.kv_heads) * self.head
        self.embedding, self.out = weights(self.words, self.width), weights(self.words, self.width)
        ones = torch.ones(self.width, device=device, dtype=torch.bfloat16)
        self.layers = [
            {
                "qkv": weights(widths, self.width),
                "attention_out": weights(self.width, self.heads * self.head),
                "gate_up": weights(2 * self.inner, self.width),
                "down": weights(self.width, self.inner),
                "norms": (ones.clone(), ones.clone()),
            }
            for _ in range(chosen["num_hidden_layers"])
        ]
        self.last_norm = ones
        self.device = device

    def run(self, phase: str, batch: int, tokens: int) -> Callable[[], Any]:
        """Return a function that reads `batch` prompts of so many tokens, or takes one decode step at that context."""
        torch = self.torch
        new = tokens if phase == "prefill" else 1
        ids = torch.randint(0, self.words, (batch, new), device=self.device)
        shape = (len(self.layers), 2, batch, self.kv_heads, tokens, self.head)
        cached = torch.randn(shape, device=self.device, dtype=torch.bfloat16)
        places = torch.arange(tokens - new, tokens, device=self.device)
        angle = places[:, None] * 5e5 ** (-torch.arange(0, self.head, 2, device=self.device) / self.head)
        turn = torch.polar(torch.ones_like(angle), angle)

        def step() -> Any:
            with torch.no_grad():
                return self._step(ids, cached, turn, places)

        return step

    def _step(self, ids: Any, cached: Any, turn: Any, places: Any) -> Any:
        torch, functional = self.torch, self.torch.nn.functional
        x = functional.embedding(ids, self.embedding)
        batch, new, _ = x.shape
        for number, layer in enumerate(self.layers):
            n = functional.rms_norm(x, (self.width,), layer["norms"][0])
            qkv = functional.linear(n, layer["qkv"]).view(batch, new, -1, self.head).transpose(1, 2)
            turned = rotated(torch, qkv[:, : self.heads + self.kv_heads], turn)
            keys, values = cached[number]
            keys.index_copy_(2, places, turned[:, self.heads :])
            values.index_copy_(2, places, qkv[:, -self.kv_heads :])
            seen = functional.scaled_dot_product_attention(
                turned[:, : self.heads], keys, values, is_causal=new > 1, enable_gqa=True
            )
            x = x + functional.linear(seen.transpose(1, 2).reshape(batch, new, -1), layer["attention_out"])
            n = functional.rms_norm(x, (self.width,), layer["norms"][1])
            gate, up = functional.linear(n, layer["gate_up"]).chunk(2, dim=-1)
            x = x + functional.linear(functional.silu(gate) * up, layer["down"])
        last = functional.rms_norm(x[:, -1], (self.width,), self.last_norm)
        return functional.linear(last, self.out).argmax(dim=-1)


def rotated(torch: Any, x: Any, turn: Any) -> Any:
    """Return queries and keys turned by their places, `turn` as complex numbers."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(torch.bfloat16)

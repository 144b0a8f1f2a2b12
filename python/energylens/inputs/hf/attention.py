"""Kernels of the attention half of a layer."""

from __future__ import annotations

from typing import Any

from energylens.inputs.hf.shape import Grouped, Latent, Shape

Kernels = dict[str, Any]


def kernels(shape: Shape) -> Kernels:
    """Return the kernels from the normed input N to the attention's output Y."""
    attention = shape.attention
    return _grouped(attention) if isinstance(attention, Grouped) else _latent(attention)


def ranks(attention: Grouped | Latent) -> dict[str, int]:
    """Return the extents of the attention's ranks."""
    if isinstance(attention, Grouped):
        return {"g": attention.kv_heads, "r": attention.group, "e": attention.head}
    sizes = {"h": attention.heads, "e": attention.nope, "z": attention.rope, "w": attention.value}
    return sizes | ({"q": attention.q_lora} if attention.q_lora else {}) | {"c": attention.kv_lora}


def modules(attention: Grouped | Latent) -> dict[str, str]:
    """Return the module of a checkpoint's layer that holds each weight."""
    if isinstance(attention, Grouped):
        return {f"W{letter}": f"self_attn.{letter}_proj" for letter in "qkvo"}
    q_down = {"Wdq": "q_a_proj"} if attention.q_lora else {}
    q_up = "q_b_proj" if attention.q_lora else "q_proj"
    names = q_down | {"Wdkv": "kv_a_proj_with_mqa", "Wkz": "kv_a_proj_with_mqa", "Wuq": q_up, "Wqz": q_up}
    names |= {"Wuk": "kv_b_proj", "Wuv": "kv_b_proj", "Wo": "o_proj"}
    return {weight: f"self_attn.{module}" for weight, module in names.items()}


def _grouped(attention: Grouped) -> Kernels:
    """Multi-head, multi-query and grouped-query attention, with an optional norm of queries and keys per head."""
    early = attention.qk_norm or attention.rotary
    q, k = ("Qp", "Kp") if early else ("Q", "K")
    out: Kernels = {
        "qkv": [
            f"{q}[b,s,g,r,e] = N[b,s,d] * Wq[d,g,r,e]",
            f"{k}[b,s,g,e] = N[b,s,d] * Wk[d,g,e]",
            "V[b,s,g,e] = N[b,s,d] * Wv[d,g,e]",
        ]
    }
    norms: list[str] = []
    if attention.qk_norm:
        norms = ["Qn[b,s,g,r,e] = norm(Qp[b,s,g,r,e], Wqn[e])", "Kn[b,s,g,e] = norm(Kp[b,s,g,e], Wkn[e])"]
        q, k = "Qn", "Kn"
    if attention.rotary:
        rope = [f"Q[b,s,g,r,e] = rope({q}[b,s,g,r,e])", f"K[b,s,g,e] = rope({k}[b,s,g,e])"]
        out["qk_norm_rope" if norms else "rope"] = norms + rope
    if attention.softcap:
        scores = ["S0[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]", "S[b,g,r,s,t] = sigmoid(S0[b,g,r,s,t])"]
    else:
        scores = ["S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]"]
    out["flash_attention"] = [
        *scores,
        "P[b,g,r,s,t] = softmax(S[b,g,r,s,t])",
        "O[b,s,g,r,e] = P[b,g,r,s,t] * V[b,t,g,e]",
    ]
    out["attention_out"] = "Y[b,s,d] = O[b,s,g,r,e] * Wo[g,r,e,d]"
    return out


def _latent(attention: Latent) -> Kernels:
    """Latent attention: prefill expands keys and values, decode absorbs the expansion into queries and output."""
    low = attention.q_lora is not None
    kv_down = ["C0[b,s,c] = N[b,s,d] * Wdkv[d,c]", "Kz0[b,s,z] = N[b,s,d] * Wkz[d,z]"]
    latent = ["C[b,s,c] = norm(C0[b,s,c], Wcn[c])", "Kz[b,s,z] = rope(Kz0[b,s,z])"]
    if low:
        q_up = ["Qe[b,s,h,e] = Cq[b,s,q] * Wuq[q,h,e]", "Qz0[b,s,h,z] = Cq[b,s,q] * Wqz[q,h,z]"]
        out: Kernels = {
            "qkv_down": ["Cq0[b,s,q] = N[b,s,d] * Wdq[d,q]", *kv_down],
            "latent_norm_rope": ["Cq[b,s,q] = norm(Cq0[b,s,q], Wqn[q])", *latent],
            "q_up": q_up,
        }
    else:
        q_up = ["Qe[b,s,h,e] = N[b,s,d] * Wuq[d,h,e]", "Qz0[b,s,h,z] = N[b,s,d] * Wqz[d,h,z]"]
        out = {"q_kv_down": q_up + kv_down, "latent_norm_rope": latent}
    rope_scores = ["S2[b,h,s,t] = Qz[b,s,h,z] * Kz[b,t,z]", "S[b,h,s,t] = add(S1[b,h,s,t], S2[b,h,s,t])"]
    softmax = "P[b,h,s,t] = softmax(S[b,h,s,t])"
    out |= {
        "q_rope": "Qz[b,s,h,z] = rope(Qz0[b,s,h,z])",
        "kv_up": _phase("prefill", "Ke[b,t,h,e] = C[b,t,c] * Wuk[h,e,c]", "Vw[b,t,h,w] = C[b,t,c] * Wuv[h,w,c]"),
        "attention_prefill": _phase(
            "prefill",
            "S1[b,h,s,t] = Qe[b,s,h,e] * Ke[b,t,h,e]",
            *rope_scores,
            softmax,
            "O[b,s,h,w] = P[b,h,s,t] * Vw[b,t,h,w]",
        ),
        "q_absorb": _phase("decode", "Qc[b,s,h,c] = Qe[b,s,h,e] * Wuk[h,e,c]"),
        "attention_decode": _phase(
            "decode",
            "S1[b,h,s,t] = Qc[b,s,h,c] * C[b,t,c]",
            *rope_scores,
            softmax,
            "Oc[b,s,h,c] = P[b,h,s,t] * C[b,t,c]",
        ),
        "o_absorb": _phase("decode", "O[b,s,h,w] = Oc[b,s,h,c] * Wuv[h,w,c]"),
        "attention_out": "Y[b,s,d] = O[b,s,h,w] * Wo[h,w,d]",
    }
    return out


def _phase(phase: str, *equations: str) -> dict[str, Any]:
    """A kernel that runs in one phase only."""
    return {"phase": phase, "equations": list(equations)}

"""Kernels of the feed-forward half of a layer."""

from __future__ import annotations

from typing import Any

from energylens.inputs.hf.shape import Dense, Experts

Kernels = dict[str, Any]


def dense_kernels(dense: Dense, has_experts: bool) -> Kernels:
    """Return the kernels of a dense network from N to M; next to routed layers its weights carry a 0 in their names."""
    mark = "0" if has_experts else ""
    if not dense.gated:
        return {
            "mlp_up": f"U[b,s,f] = N[b,s,d] * Wu{mark}[d,f]",
            "activation": _plain(dense.activation),
            "mlp_down": f"M[b,s,d] = A[b,s,f] * Wd{mark}[f,d]",
        }
    return {
        "gate_up": [f"G[b,s,f] = N[b,s,d] * Wg{mark}[d,f]", f"U[b,s,f] = N[b,s,d] * Wu{mark}[d,f]"],
        "activation": f"A[b,s,f] = {dense.activation}(G[b,s,f]) * U[b,s,f]",
        "mlp_down": f"M[b,s,d] = A[b,s,f] * Wd{mark}[f,d]",
    }


def expert_kernels(experts: Experts) -> tuple[Kernels, str]:
    """Return the kernels of routed (and shared) experts from N, and the name of the tensor they make."""
    out: Kernels = {
        "router": "R[b,s,x] = N[b,s,d] * Wr[d,x]",
        "gate": "A[b,s,x] = topk(R[b,s,x])",
        "experts": [
            "G[b,s,x,m] = N[b,s,d] * Wg[x,d,m]",
            "U[b,s,x,m] = N[b,s,d] * Wu[x,d,m]",
            f"H[b,s,x,m] = {experts.activation}(G[b,s,x,m]) * U[b,s,x,m]",
            "D[b,s,x,d] = H[b,s,x,m] * Wd[x,m,d]",
            "M[b,s,d] = A[b,s,x] * D[b,s,x,d]",
        ],
    }
    if not experts.shared:
        return out, "M"
    out |= {
        "shared_gate_up": ["SG[b,s,u] = N[b,s,d] * Wsg[d,u]", "SU[b,s,u] = N[b,s,d] * Wsu[d,u]"],
        "shared_activation": f"SA[b,s,u] = {experts.activation}(SG[b,s,u]) * SU[b,s,u]",
        "shared_down": "SD[b,s,d] = SA[b,s,u] * Wsd[u,d]",
    }
    if experts.shared_gate:
        out["shared_gate"] = [
            "Z[b,s] = N[b,s,d] * Wsr[d]",
            "SZ[b,s,d] = sigmoid(Z[b,s]) * SD[b,s,d]",
        ]
    shared = "SZ" if experts.shared_gate else "SD"
    out["shared_add"] = f"F[b,s,d] = add(M[b,s,d], {shared}[b,s,d])"
    return out, "F"


def dense_modules(dense: Dense, has_experts: bool) -> dict[str, str]:
    """Return the module of a checkpoint's layer that holds each weight of a dense network."""
    mark = "0" if has_experts else ""
    names = {"Wg": "gate_proj"} if dense.gated else {}
    names |= {"Wu": "up_proj", "Wd": "down_proj"}
    return {weight + mark: f"mlp.{module}" for weight, module in names.items()}


def expert_modules(experts: Experts) -> dict[str, str]:
    """Return the module of a checkpoint's layer that holds each weight of the experts."""
    names = {"g": "gate_proj", "u": "up_proj", "d": "down_proj"}
    out = {f"W{letter}": f"mlp.experts.0.{module}" for letter, module in names.items()}
    if experts.shared:
        out |= {f"Ws{letter}": f"mlp.shared_experts.{module}" for letter, module in names.items()}
    return out


def _plain(activation: str) -> str | list[str]:
    """Activation of a network without gate; relu2 is the square of relu."""
    if activation == "relu2":
        return ["Ar[b,s,f] = relu(U[b,s,f])", "A[b,s,f] = Ar[b,s,f] * Ar[b,s,f]"]
    return f"A[b,s,f] = {activation}(U[b,s,f])"

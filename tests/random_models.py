"""Random models for property tests: fused or not, dense or routed, masked, shared experts, overlap, odd extents."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from energylens.inputs.builder import Model

ODDITIES: list[dict[str, Any]] = [
    {"square": "X[b,s,d] = mul(Y[b,s,d], Y[b,s,d])"},
    {"two_sums": ["B1[b,s,d] = O[b,s,g,r,e] * Wb[g,r,e,d]", "C1[b,s,d] = B1[b,s,d] * Y[b,s,d]"]},
    {"scaled": ["B2[b,s,d] = O[b,s,g,r,e] * Wb[g,r,e,d]", "C2[b,s,d] = sigmoid(X[b,s,d]) * B2[b,s,d]"]},
    {"summed": ["B3[b,s,d] = add(Y[b,s,d], X[b,s,d])", "C3[b,s] = B3[b,s,d]"]},
    {
        "heads": "B4[b,s,g,r,e] = norm(O[b,s,g,r,e])",
        "k2": "K2[b,s,e,g] = N[b,s,d] * Wk2[d,e,g]",
        "last_heads": ["C4[b,s,e,g] = softmax(K2[b,s,e,g])", "C5[b,s,e,g] = norm(K2[b,s,e,g])"],
    },
]
EXTENTS = st.sampled_from([1, 2, 3, 4, 6, 8, 12])


@st.composite
def models(draw: st.DrawFn) -> Model:
    routed = draw(st.booleans())
    experts = draw(st.sampled_from([4, 6, 8, 16]))
    ranks: dict[str, Any] = {
        "d": draw(st.sampled_from([64, 96, 1000])),
        "g": draw(EXTENTS),
        "r": draw(EXTENTS),
        "e": draw(st.sampled_from([16, 64])),
        "f": draw(st.sampled_from([64, 192, 768])),
        "v": draw(st.sampled_from([128, 1000])),
    }
    overlap = {}
    if draw(st.booleans()):
        overlap["out"] = {"stages": draw(st.integers(1, 6)), "sms": draw(st.integers(1, 40))}
    if draw(st.booleans()):
        overlap["experts" if routed else "down"] = {"stages": draw(st.integers(1, 4)), "sms": draw(st.integers(1, 40))}
    if routed:
        active = draw(st.integers(1, experts))
        groups = draw(st.sampled_from([n for n in (1, 2, 4) if experts % n == 0]))
        some = draw(st.integers(-(-active * groups // experts), groups))
        limit = draw(st.sampled_from([{}, {"groups": groups, "active_groups": some}]))
        ranks |= {"x": {"extent": experts, "active": active} | limit, "m": 48, "u": 96}
    window = draw(st.sampled_from([None, 1, 7, 64, 4096]))
    mask: dict[str, Any] = {"S": {"window": window} if window else "causal"} if draw(st.booleans()) else {}
    shard = {"b": "dp", "g": "tp", "r": "tp", "f": "tp", "v": "tp", "repeat": "pp"}
    if routed:
        shard |= {"x": "ep", "m": "moe_tp", "u": "tp"}
    keep = draw(st.lists(st.sampled_from(sorted(shard)), unique=True, min_size=3))
    shard = {rank: axis for rank, axis in shard.items() if rank in keep or rank in {"x"}}
    dtypes = {"weights": draw(st.sampled_from(["bf16", "fp8"])), "activations": "bf16", "cache": "bf16"}
    named = draw(st.lists(st.sampled_from(["Wq", "Wo", "Y", "N", "K"]), unique=True, max_size=3))
    dtypes |= {name: draw(st.sampled_from(["bf16", "fp8", "fp32", "nvfp4"])) for name in named}
    model = Model("random", ranks=ranks, cache=["K", "V"], mask=mask, shard=shard, overlap=overlap, dtypes=dtypes)
    model.block(1, name="start", kernels={"embed": "X[b,s,d] = embed(Tokens[b,s], We[v,d])"})
    for index in range(draw(st.integers(1, 2))):
        fused = draw(st.booleans())
        kernels = attention(fused) | (experts_part(draw) if routed else dense_part(fused))
        if draw(st.booleans()):
            kernels |= draw(st.sampled_from(ODDITIES))
        model.block(draw(st.integers(1, 5)), name=f"layer_{index}", kernels=kernels)
    head = ["L[b,s,v] = X[b,s,d] * Wh[d,v]", "Next[b,s] = sample(L[b,s,v])"]
    if draw(st.booleans()):
        head.insert(1, "Likely[b,s,v] = softmax(L[b,s,v])")
    model.block(1, name="end", kernels={"head": head if draw(st.booleans()) else head[0]})
    return model


def attention(fused: bool) -> dict[str, Any]:
    qkv = [
        "Q[b,s,g,r,e] = N[b,s,d] * Wq[d,g,r,e]",
        "K[b,s,g,e] = N[b,s,d] * Wk[d,g,e]",
        "V[b,s,g,e] = N[b,s,d] * Wv[d,g,e]",
    ]
    core = [
        "S[b,g,r,s,t] = Q[b,s,g,r,e] * K[b,t,g,e]",
        "P[b,g,r,s,t] = softmax(S[b,g,r,s,t])",
        "O[b,s,g,r,e] = P[b,g,r,s,t] * V[b,t,g,e]",
    ]
    kernels: dict[str, Any] = {"norm": "N[b,s,d] = norm(X[b,s,d], Wn[d])"}
    if fused:
        kernels |= {"qkv": qkv, "attention": core}
    else:
        kernels |= dict(zip(("q", "k", "v", "scores", "softmax", "mix"), [*qkv, *core], strict=True))
    return kernels | {"out": "Y[b,s,d] = O[b,s,g,r,e] * Wo[g,r,e,d]", "add": "X[b,s,d] = add(X[b,s,d], Y[b,s,d])"}


def dense_part(fused: bool) -> dict[str, Any]:
    up = ["G[b,s,f] = X[b,s,d] * Wg[d,f]", "U[b,s,f] = X[b,s,d] * Wu[d,f]"]
    kernels: dict[str, Any] = (
        {"up": [*up, "A[b,s,f] = silu(G[b,s,f]) * U[b,s,f]"]} if fused else {"gate": up[0], "up": up[1]}
    )
    if not fused:
        kernels["act"] = "A[b,s,f] = silu(G[b,s,f]) * U[b,s,f]"
    return kernels | {"down": "M[b,s,d] = A[b,s,f] * Wd[f,d]", "last_add": "X[b,s,d] = add(X[b,s,d], M[b,s,d])"}


def experts_part(draw: st.DrawFn) -> dict[str, Any]:
    kernels: dict[str, Any] = {
        "router": "R[b,s,x] = X[b,s,d] * Wr[d,x]",
        "gate": "C[b,s,x] = topk(R[b,s,x])",
        "experts": [
            "H[b,s,x,m] = X[b,s,d] * Wu[x,d,m]",
            "J[b,s,x,m] = gelu(H[b,s,x,m])",
            "D[b,s,x,d] = J[b,s,x,m] * Wd[x,m,d]",
            "M[b,s,d] = C[b,s,x] * D[b,s,x,d]",
        ],
    }
    if draw(st.booleans()):
        kernels |= {
            "shared_up": "SU[b,s,u] = X[b,s,d] * Wsu[d,u]",
            "shared_down": "SD[b,s,d] = SU[b,s,u] * Wsd[u,d]",
            "together": "M2[b,s,d] = add(M[b,s,d], SD[b,s,d])",
        }
        return kernels | {"last_add": "X[b,s,d] = add(X[b,s,d], M2[b,s,d])"}
    return kernels | {"last_add": "X[b,s,d] = add(X[b,s,d], M[b,s,d])"}

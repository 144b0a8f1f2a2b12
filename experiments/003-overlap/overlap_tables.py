"""The figures and tables that template.md names, from the committed results and the A100 profile."""

from __future__ import annotations

from typing import Any

from pages import markdown, must

from energylens.inputs.library import load_gpu

TARGETS = {"joules": 6.0, "ms": 8.0, "least": 90.0, "front": 80.0}
PAPER = {"joules": "12.97", "front": "69", "heuristic": "20"}


def verdict(held: bool) -> str:
    return "reached" if held else "**missed**"


def targets(summary: dict[str, Any]) -> str:
    """Return the figures against the targets and the paper."""
    errors, least = summary["errors"]["all"], summary["least"]["joules"]["model"]
    share, pooled, within = 100 * least["within"] / least["of"], summary["pooled"], summary["groups"]
    front = f"at least {TARGETS['front']:.0f} %"
    rows = [
        ["energy, mean absolute error", f"{errors['joules']['mape_percent']:.2f} %",
         f"at most {TARGETS['joules']:.0f} %", verdict(errors["joules"]["mape_percent"] <= TARGETS["joules"]),
         f"{PAPER['joules']} %"],
        ["time, mean absolute error", f"{errors['ms']['mape_percent']:.2f} %", f"at most {TARGETS['ms']:.0f} %",
         verdict(errors["ms"]["mape_percent"] <= TARGETS["ms"]), ""],
        ["chosen SM count within 1 % of the least energy", f"{least['within']} of {least['of']} ({share:.0f} %)",
         f"at least {TARGETS['least']:.0f} %", verdict(share >= TARGETS["least"]), ""],
        ["front recovered, within a window and block size", f"{within['model']['near_percent']:.0f} %", front,
         verdict(within["model"]["near_percent"] >= TARGETS["front"]), ""],
        ["front recovered, all configurations pooled", f"{pooled['model']['near_percent']:.0f} %", front,
         verdict(pooled["model"]["near_percent"] >= TARGETS["front"]), f"{PAPER['front']} %"],
        ["the same, heuristic: overlap with the whole block, most SMs",
         f"{pooled['whole, most SMs']['near_percent']:.0f} %", "", "", f"{PAPER['heuristic']} %"],
    ]  # fmt: skip
    return markdown(["left out, one window at a time", "here", "target", "", "the paper, other data"], rows)


def recovery(rows: dict[str, dict[str, float]]) -> str:
    digits = [
        [name, f"{row['size']:.3g}", *(f"{row[f'{key}_percent']:.0f}" for key in ("near", "strict", "hypervolume"))]
        for name, row in rows.items()
    ]
    return markdown(["chosen", "configurations", "within 1 %, %", "strictly, %", "hypervolume, %"], digits)


def configurations(rows: list[dict[str, Any]]) -> str:
    lines = [
        [row["window"], str(row["block"]), str(row["sms"]), f"{row['ms']:.3f}", f"{row['joules']:.3f}"] for row in rows
    ]
    return markdown(["overlapped operations", "threads a block", "SMs", "ms", "J"], lines)


def counts(least: dict[str, Any]) -> str:
    """Return how many groups a choice of SMs gets right, and the mean excess."""
    names = {"model": "the model's choice", "9": "always 9", "15": "always 15", "17": "always 17", "19": "always 19"}
    cells = [
        [text, *(f"{entry['within']} of {entry['of']}, {entry['mean_percent']:.2f} %, {entry['most_percent']:.1f} %"
                 for quantity in ("joules", "ms", "product") for entry in [least[quantity][name]])]
        for name, text in names.items()
    ]  # fmt: skip
    return markdown(["SMs", "energy", "time", "energy x time"], cells)


def tried(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        [name, f"{row['ms_percent']:.2f}", f"{row['joules_percent']:.2f}", f"{row['least']}",
         f"{row['pooled_percent']:.0f}", f"{row['groups_percent']:.0f}",
         ", ".join(f"{k:.2f}" for k in row["contention"])]
        for name, row in rows.items()
    ]  # fmt: skip
    head = ["form", "time, %", "energy, %", "SM count, of 30", "front pooled, %", "front in groups, %", "contention"]
    return markdown(head, lines)


def profile(result: dict[str, Any]) -> str:
    """Return what the fit to all rows finds beside what the A100 profile carries; stop if they have come apart."""
    spec = load_gpu("a100-sxm-80gb").spec
    link, energy = spec.link, spec.energy
    must(link.contention is not None and energy is not None, "the A100 profile has contention and energies")
    assert link.contention is not None and energy is not None
    must(link.sms_to_saturate == round(result["sms_to_saturate"]), "the profile's sms_to_saturate is the fit's")
    must(link.sms_sharpness == result["sms_sharpness"], "the profile's sms_sharpness is the fit's")
    must(link.contention.communication == round(result["contention_communication"], 2), "so is its contention")
    must(link.contention.compute == result["contention_compute"] == 0, "compute is not slowed down by contention")
    wanted = result["sm_w"] * result["sms_to_saturate"]
    rows = [
        ["`link.sms_to_saturate` (1024 threads a block)", f"{result['sms_to_saturate']:.2f}",
         f"{link.sms_to_saturate:g}"],
        ["`link.sms_sharpness` (set, not fitted)", f"{result['sms_sharpness']:g}", f"{link.sms_sharpness:g}"],
        ["`link.contention.compute`", f"{result['contention_compute']:g}", f"{link.contention.compute:g}"],
        ["`link.contention.communication`", f"{result['contention_communication']:.2f}",
         f"{link.contention.communication:g}"],
        ["static W of a GPU (`energy.static_w`; of another source)", f"{result['static_w']:.1f}",
         f"{energy.static_w:g}"],
        ["W a communication SM", f"{result['sm_w']:.2f}", "none: `communication_w` below"],
        ["the same for all it wants (`energy.communication_w`; transferred, not from here)", f"{wanted:.1f}",
         f"{energy.communication_w:g}"],
    ]  # fmt: skip
    return markdown(["coefficient", "fit to all rows", "A100 profile"], rows)


def words(summary: dict[str, Any]) -> dict[str, str]:
    """Return every figure and table that template.md names."""
    data, errors, least, saved = summary["data"], summary["errors"], summary["least"], summary["saved"]
    pooled, within, few = summary["pooled"], summary["groups"], summary["few"]
    energy, product = least["joules"], least["product"]
    must(pooled["model"]["near_percent"] < TARGETS["front"], "the pooled front misses its target")
    must(energy["19"]["within"] >= energy["model"]["within"], "always 19 SMs is as good for energy alone")
    must(product["model"]["within"] > product["hindsight"]["within"], "for both no fixed number of SMs is as good")
    must(few["drawn"]["ms_percent"]["most"] < TARGETS["ms"], "four windows are enough for the targets")
    chosen = summary["tried"]["chosen"]
    better = [name for name, row in summary["tried"].items() if row["joules_percent"] < 0.95 * chosen["joules_percent"]]
    must(not better, "no form that was tried has a clearly smaller energy error")
    out = {
        "table_targets": targets(summary),
        "table_front": configurations(data["front"]),
        "table_counts": counts(least),
        "table_tried": tried(summary["tried"]),
        "table_profile": profile(summary["coefficients"]),
        "table_pooled": recovery({
            "predicted front": pooled["model"],
            "overlap with the whole block, most SMs (two block sizes)": pooled["whole, most SMs"],
            "overlap with the whole block, every SM count": pooled["whole, every SM count"],
            "everything sequential": pooled["sequential"],
            "front of one repeat, judged by the other two": pooled["repeat"],
        }),
        "table_groups": recovery({
            "predicted front": within["model"],
            "most SMs (19)": within["most"],
            "17 SMs": within["17"],
            "15 SMs": within["15"],
            "the fastest as measured (hindsight)": within["fastest"],
            "front of one repeat, judged by the other two": within["repeat"],
        }),
        "table_windows": markdown(
            ["operations", "time: mean, most, %", "energy: mean, most, %"],
            [[name, *(f"{row[q]['mape_percent']:.1f}, {row[q]['most_percent']:.1f}" for q in ("ms", "joules"))]
             for name, row in summary["windows"].items()],
        ),
        "table_paper_counts": markdown(
            ["SMs", "energy, %", "time, %"],
            [[name, *(f"{errors[name][q]['mape_percent']:.2f}" for q in ("joules", "ms"))]
             for name in ("1", "3, 5", "15, 17")],
        ),
        "table_shortlist": markdown(
            ["predicted to lose by at most", "configurations", "within 1 %", "strictly",
             "as many at random: within 1 %", "strictly"],
            [[f"{row['slack_percent']:g} %", f"{row['size']}",
              *(f"{entry[f'{key}_percent']:.0f} %" for entry in (row, row["random"]) for key in ("near", "strict"))]
             for row in summary["shortlist"]],
        ),
        "missed": "; ".join(
            f"operations {row['window']} with {row['block']} threads, {row['above_percent']:.1f} % above"
            for row in least["misses"]
        ),
        "best": "operations {window}, {block} threads a block, {sms} SMs: {joules:.3f} J, {ms:.2f} ms".format(
            **saved["least"]
        ),
        "best_sequential": "{block} threads, {sms} SMs: {joules:.3f} J, {ms:.2f} ms".format(**saved["sequential"]),
        "predicted_front": "; ".join(
            "operations {window}, {block} threads, {sms} SMs".format(**row) for row in pooled["front"]
        ),
        "drift": ", ".join(f"{shift:+.1f} %" for shift in data["drift_percent"]),
        "inside": f"{energy['inside']} of {energy['model']['of']}",
        "inside_ms": f"{least['ms']['inside']} of {energy['model']['of']}",
        "parts": ", ".join(f"{part:.2f}" for part in summary["coefficients"]["parts_ms"]),
        "fixed_j": f"{summary['coefficients']['fixed_j']:.2f}",
        "n_512": f"{summary['coefficients']['sms_to_saturate_512']:.1f}",
        "least_model": f"{energy['model']['within']} of {energy['model']['of']}",
        "least_19": f"{energy['19']['within']} of {energy['19']['of']}",
        "product_model": f"{product['model']['within']} of {product['model']['of']}",
        "product_fixed": f"{product['hindsight']['within']}",
    }  # fmt: skip
    figures = {
        "energy": errors["all"]["joules"]["mape_percent"], "time": errors["all"]["ms"]["mape_percent"],
        "energy_most": errors["all"]["joules"]["most_percent"], "time_most": errors["all"]["ms"]["most_percent"],
        "energy_sequential": errors["sequential"]["joules"]["mape_percent"],
        "time_sequential": errors["sequential"]["ms"]["mape_percent"],
        "scatter": data["scatter_joules_percent"], "scatter_own": data["scatter_joules_own_percent"],
        "scatter_ms": data["scatter_ms_percent"],
        "front_ms": data["front_ms_percent"], "front_joules": data["front_joules_percent"],
        "saved": saved["joules_percent"], "saved_ms": saved["ms_percent"], "saved_fastest": saved["fastest_percent"],
        "saved_one": saved["1"]["mean"], "saved_one_least": saved["1"]["least"], "saved_one_most": saved["1"]["most"],
        "saved_most": saved["19"]["mean"], "saved_most_most": saved["19"]["most"],
        "saved_sequential_1": saved["sequential 1"], "saved_sequential_20": saved["sequential 20"],
        "four_joules": few["four"]["joules_percent"], "four_ms": few["four"]["ms_percent"],
        "sparse_joules": few["four, sparse"]["joules_percent"], "sparse_ms": few["four, sparse"]["ms_percent"],
        "other_joules": few["every other count"]["joules_percent"], "other_ms": few["every other count"]["ms_percent"],
        **{f"drawn_{end}_{name}": few["drawn"][f"{name}_percent"][end]
           for name in ("joules", "ms") for end in ("median", "p90", "most")},
    }  # fmt: skip
    whole = {
        "pooled": pooled["model"]["near_percent"], "pooled_whole": pooled["whole, every SM count"]["near_percent"],
        "pooled_most": pooled["whole, most SMs"]["near_percent"], "grouped": within["model"]["near_percent"],
        "grouped_most": within["most"]["near_percent"], "grouped_17": within["17"]["near_percent"],
        "grouped_15": within["15"]["near_percent"], "repeat_strict": pooled["repeat"]["strict_percent"],
        "grouped_strict": within["model"]["strict_percent"],
    }  # fmt: skip
    waves = summary["tried"]["the same, 768 in operation 2 and 1024 in 6"]
    free = summary["tried"]["such a time fitted"]
    parts = summary["tried"]["contention of each part of its own"]
    out |= {name: f"{value:.1f}" for name, value in figures.items()} | {
        name: f"{value:.0f}" for name, value in whole.items()
    }
    out |= {
        "few_rows": f"{few['four']['rows']}", "sparse_rows": f"{few['four, sparse']['rows']}",
        "front_size": f"{within['front_size']:.1f}", "predicted_size": f"{within['model']['size']:.1f}",
        "waves_groups": f"{waves['groups_percent']:.0f}", "waves_energy": f"{waves['joules_percent']:.2f}",
        "waves_time": f"{waves['ms_percent']:.2f}", "energy_2": f"{chosen['joules_percent']:.2f}",
        "time_2": f"{chosen['ms_percent']:.2f}", "part_time": f"{parts['ms_percent']:.2f}",
        "part_energy": f"{parts['joules_percent']:.2f}",
        "free_contention": f"{free['contention'][0]:.2f}",
        "short_contention": f"{summary['tried']['0.2 ms that no window covers']['contention'][0]:.2f}",
        "contention": f"{chosen['contention'][0]:.2f}",
        **{name: str(data[name]) for name in ("configurations", "sequential", "windows", "groups")},
    }  # fmt: skip
    return out

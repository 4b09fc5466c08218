"""Trees of models made elsewhere, looked at before they are asked: every branch leads on to a node that is there, and none goes round.

The libraries follow a file's numbers without asking; one that points outside ends the process, one that points back never ends. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec


class Lightgbm(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of LightGBM's text says."""

    names: list[str]
    objective: str  # its name; empty: none
    classes: int  # outputs
    kinds: list[str]  # number or category, for each feature
    levels: list[list[Any]]  # of each categorical feature, in order; [] where the file does not name them


def look_at_lightgbm(text: str) -> Lightgbm:
    """Return what a LightGBM model takes and gives. Raises ValueError, in words that follow a file's name."""
    head, *trees = text.split("\nTree=")
    values = _pairs(head)
    names = values.get("feature_names", "").split()
    last = _whole(values, "max_feature_idx")
    if len(names) != last + 1:
        raise ValueError(f"names {len(names)} features and uses {last + 1}")
    if not trees:
        raise ValueError("has no trees")
    for number, tree in enumerate(trees):
        _look_at_lightgbm_tree(_pairs(tree.split("\n\n")[0]), number, last)
    infos = values.get("feature_infos", "").split()
    kinds = ["number" if info.startswith("[") or info == "none" else "category" for info in infos] or ["number"] * len(names)
    if len(kinds) != len(names):
        raise ValueError("describes other features than it names")
    line = text.rpartition("\npandas_categorical:")[2].strip() if "\npandas_categorical:" in text else "null"
    try:
        levels = msgspec.json.decode(line or "null", type=list[list[Any]] | None) or []
    except msgspec.DecodeError as error:
        raise ValueError(f"has a pandas_categorical that is no list: {error}") from None
    return Lightgbm(
        names=names, objective=values.get("objective", "").split(" ")[0], classes=_whole(values, "num_tree_per_iteration"), kinds=kinds, levels=levels
    )


def _look_at_lightgbm_tree(tree: dict[str, str], number: int, last_feature: int) -> None:
    leaves = _whole(tree, "num_leaves")
    if tree.get("is_linear", "0").strip() == "1":
        raise ValueError("has linear trees, which are not served")
    if leaves < 1 or leaves > 1_000_000:
        raise ValueError(f"has a tree {number} of {leaves} leaves")
    if len(tree.get("leaf_value", "").split()) != leaves:
        raise ValueError(f"has a tree {number} with other leaves than it says")
    if leaves == 1:
        return
    features, left, right = (_numbers(tree, name, leaves - 1, number) for name in ("split_feature", "left_child", "right_child"))
    kinds = _numbers(tree, "decision_type", leaves - 1, number)
    if min(features) < 0 or max(features) > last_feature:
        raise ValueError(f"has a tree {number} that asks for a feature that is not there")
    for node, pair in enumerate(zip(left, right, strict=True)):
        for child in pair:
            # nodes are numbered as they are made, so a branch leads to a later node, or to a leaf, written as its complement
            if not (node < child < leaves - 1 or 0 <= ~child < leaves):
                raise ValueError(f"has a tree {number} whose node {node} leads to {child}, which is no node after it")
    if any(kind & 1 for kind in kinds):
        _look_at_categories(tree, kinds, number)


def _look_at_categories(tree: dict[str, str], kinds: list[int], number: int) -> None:
    sets = _whole(tree, "num_cat")
    bounds = _numbers(tree, "cat_boundaries", sets + 1, number)
    words = len(tree.get("cat_threshold", "").split())
    rising = all(low <= high for low, high in pairwise(bounds))
    if not rising or bounds[0] != 0 or bounds[-1] != words:
        raise ValueError(f"has a tree {number} whose sets of categories point outside")
    thresholds = tree.get("threshold", "").split()
    if len(thresholds) != len(kinds) or any(kind & 1 and not 0 <= float(at) < sets for kind, at in zip(kinds, thresholds, strict=True)):
        raise ValueError(f"has a tree {number} that asks for a set of categories that is not there")


def look_at_xgboost(document: dict[str, Any]) -> None:
    """Look through the trees of an XGBoost model as the library itself wrote them. Raises ValueError, in words that follow a file's name."""
    learner = document["learner"]
    booster = learner["gradient_booster"]
    model = booster.get("gbtree", booster).get("model", {})
    if "trees" not in model:
        return  # a linear one
    features = int(learner["learner_model_param"]["num_feature"])
    groups = max(int(learner["learner_model_param"]["num_class"]), int(learner["learner_model_param"].get("num_target", 1)), 1)
    trees, owners, steps = model["trees"], model["tree_info"], model.get("iteration_indptr", [0, len(model["trees"])])
    if len(owners) != len(trees) or any(not 0 <= owner < groups for owner in owners):
        raise ValueError("has trees of classes that are not there")
    if steps[0] != 0 or steps[-1] != len(trees) or any(low > high for low, high in pairwise(steps)):
        raise ValueError("counts its rounds wrongly")
    for number, tree in enumerate(trees):
        _look_at_xgboost_tree(tree, number, features)


def _look_at_xgboost_tree(tree: dict[str, Any], number: int, features: int) -> None:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise ValueError("has leaves of several numbers, which are not served")
    left, right, asked = tree["left_children"], tree["right_children"], tree["split_indices"]
    count = len(left)
    if not count or len(right) != count or len(asked) != count or len(tree["split_conditions"]) != count:
        raise ValueError(f"has a tree {number} of uneven parts")
    seen, waiting = {0}, [0]
    while waiting:
        node = waiting.pop()
        if left[node] == -1:
            continue
        if not 0 <= asked[node] < features:
            raise ValueError(f"has a tree {number} that asks for a feature that is not there")
        for child in (left[node], right[node]):
            if not 0 < child < count or child in seen:
                raise ValueError(f"has a tree {number} whose node {node} leads to {child}, which is not there or was passed before")
            seen.add(child)
            waiting.append(child)
    for begin, size in zip(tree.get("categories_segments", []), tree.get("categories_sizes", []), strict=True):
        if begin < 0 or size < 0 or begin + size > len(tree["categories"]):
            raise ValueError(f"has a tree {number} whose sets of categories point outside")


def _pairs(text: str) -> dict[str, str]:
    return {name: value for name, mark, value in (line.partition("=") for line in text.splitlines()) if mark}


def _whole(values: dict[str, str], name: str) -> int:
    try:
        return int(values[name])
    except (KeyError, ValueError):
        raise ValueError(f"does not say its {name}") from None


def _numbers(tree: dict[str, str], name: str, count: int, number: int) -> list[int]:
    try:
        found = [int(text) for text in tree.get(name, "").split()]
    except ValueError:
        found = []
    if len(found) != count:
        raise ValueError(f"has a tree {number} whose {name} has not {count} whole numbers")
    return found


def xgboost_levels(learner: dict[str, Any]) -> list[Sequence[Any]]:
    """Return the names of the categories of each feature that the model keeps; [] where it keeps none."""
    booster = learner["gradient_booster"]
    cats = booster.get("gbtree", booster).get("model", {}).get("cats") or {}
    found: list[Sequence[Any]] = []
    for each in cats.get("enc", []):
        offsets, values = each.get("offsets", []), each.get("values", [])
        if not offsets:  # categories that are numbers
            found.append(list(values))
            continue
        text = bytes(value & 0xFF for value in values)
        found.append([text[low:high].decode("utf-8", "replace") for low, high in pairwise(offsets)])
    return found

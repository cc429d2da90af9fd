"""Recipes: the paper's values, and mistakes that are named."""

import pytest

from SAMv2Core.errors import UsageError
from Training.engine.recipe import as_mapping, differences, load_recipe, recipe_names
from Training.engine.schedule import MovingAverage, learning_rate


def test_all_recipes_load_and_say_what_they_are():
    names = ("aggsam", "crosssam", "lite-ct", "lite-ctmr", "sam", "sampp")
    assert set(names) <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.about


def test_the_values_that_distinguish_the_paper_from_the_code():
    assert load_recipe("sampp").semantic.temperature == 0.5
    assert load_recipe("sampp", ["semantic.temperature=0.1"]).semantic.temperature == 0.1
    cross = load_recipe("crosssam")
    fine = cross.registered.fine
    assert (fine.n_positive, fine.n_negative, fine.n_outside) == (200, 500, 100)
    assert (cross.parts.schedule, cross.parts.appearance, cross.parts.registered) == ("alternate", 1.0, 1.0)
    assert load_recipe("sam").optimizer.lr == 0.02 and load_recipe("sam").run.batch == 5


def test_a_recipe_extends_another_section_by_section(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: sampp\nsemantic:\n  temperature: 1e-1\n")  # YAML 1.1 reads 1e-1 as text
    mine, base = load_recipe(str(path)), load_recipe("sampp")
    assert mine.semantic.temperature == 0.1 and mine.semantic.n_scans == base.semantic.n_scans
    assert mine.network.architecture == "sampp" and mine.patch == base.patch
    assert differences(as_mapping(base), as_mapping(mine)) == (
        "name: sampp -> mine",
        "semantic.temperature: 0.5 -> 0.1",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fine.temprature=1", "no key 'temprature'. Did you mean 'temperature'?"),
        ("optimiser.lr=1", "no key 'optimiser'. Did you mean 'optimizer'?"),
        ("fine.n_positive=many", "fine, n_positive: 'many' is not a value of type int"),
        ("fine.n_positive=1.5", "1.5 is not a value of type int"),
        ("patch.voxels=air", "'air' is not possible. Use one of scan, body"),
        ("patch.size_zyx=[1, 2]", "3 values are needed, not 2"),
        ("patch.size_zyx=[1, 1, 1]", "a patch of (1, 1, 1) voxels is too small"),
        ("patch.scale=[1.2, 0.8]", "scale must be an increasing range"),
        ("parts={appearance: 0}", "at least one part"),
        ("run.batch=0", "batch must be at least 1"),
        ("network=lite", "names with values are needed"),
        ("fine.temperature", "a name, = and a value are needed"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UsageError) as caught:
        load_recipe("sam", [change])
    assert message in str(caught.value)


def test_recipes_that_are_missing_damaged_or_circular(tmp_path):
    with pytest.raises(UsageError, match=r"no recipe samm .*Use one of aggsam"):
        load_recipe("samm")
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(str(path))
    path.write_text(f"extends: {path}")
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(str(path))


def test_warm_up_is_linear_and_the_rate_then_constant():
    options = load_recipe("sam").optimizer
    assert learning_rate(0, 20000, options) == pytest.approx(0.02 * (0.001 + 0.999 / 500))
    assert learning_rate(249, 20000, options) == pytest.approx(0.02 * (0.001 + 0.999 / 2))
    assert learning_rate(500, 20000, options) == learning_rate(19999, 20000, options) == 0.02


def test_a_rate_may_stay_and_then_fall_along_a_line():
    options = load_recipe(
        "lite-ct", ["optimizer.decay=0.25", "optimizer.shape=linear", "optimizer.floor=0.02"]
    ).optimizer
    at = {299: 1.0, 300: 1.0, 5999: 1.0, 6000: 1.0, 7000: 0.5, 7999: 0.02}
    assert {step: learning_rate(step, 8000, options) / 1e-3 for step in at} == pytest.approx(at)


def test_the_light_recipes_rate_rises_and_falls_as_half_a_cosine_and_its_average_follows():
    options = load_recipe("lite-ct").optimizer
    assert learning_rate(149, 20000, options) == pytest.approx(0.5e-3)
    falling = {5000: 0.01 + 0.99 * (1 + 0.5**0.5) / 2, 10000: 0.01 + 0.99 / 2, 20000: 0.01}  # at 45, 90 and 180 degrees
    assert {step: learning_rate(step, 20000, options) / 1e-3 for step in falling} == pytest.approx(falling)
    import torch

    net = torch.nn.BatchNorm3d(3)
    average = MovingAverage(net, options.average)
    expected = net.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            net.weight += 1.0
        average.update(net, step)
        kept = min(options.average, (step + 1) / (step + 10))  # early averages are short
        expected = kept * expected + (1 - kept) * net.weight.detach()
    assert torch.allclose(average.state["weight"], expected)


def test_a_run_from_before_an_option_existed_goes_on_unless_the_option_is_used():
    from Training.engine.checkpoint import check_same_run

    recipe = as_mapping(load_recipe("lite-ct"))
    older = {**recipe, "lite": {k: v for k, v in recipe["lite"].items() if k != "cross"}}
    state = {"recipe": older, "seed": 0, "groups_per_step": 1}
    check_same_run(state, recipe, 0, 1)
    changed = {**recipe, "lite": {**recipe["lite"], "cross": 0.25}}
    with pytest.raises(UsageError, match=r"lite\.cross: 0\.5 -> 0\.25"):
        check_same_run(state, changed, 0, 1)

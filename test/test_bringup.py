"""Bring-ups: which nodes run together, and the arguments that a person gives them."""

from pathlib import Path

import pytest

import dp_ros
from dp_ros.bringup import BRINGUPS, Bringup, NodeSpec, arguments_of, from_text, model_folder, with_view
from dp_ros.errors import UserError


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "manifest.json").write_text("{}")
    return str(tmp_path)


def started(bringup: Bringup) -> dict[str, NodeSpec]:
    return {node.name: node for node in bringup.nodes}


def all_bringups(model: str) -> list[Bringup]:
    required = {"model": model, "out": "demonstrations.zarr", "task": "pusht_state"}
    return [
        from_text(name, {a.name: required[a.name] for a in arguments_of(name) if a.name in required})
        for name in BRINGUPS
    ]


@pytest.mark.parametrize("name", BRINGUPS)
def test_every_argument_is_described(name: str) -> None:
    assert all(argument.description for argument in arguments_of(name))


def test_every_executable_is_a_module_with_a_main(model: str) -> None:
    nodes = Path(dp_ros.__file__).parent / "nodes"
    for bringup in all_bringups(model):
        for node in bringup.nodes:
            assert "def main(" in (nodes / f"{node.executable}.py").read_text()


def test_every_bringup_has_a_launch_file(model: str) -> None:
    folder = Path(dp_ros.__file__).parent.parent / "launch"
    assert {path.name.removesuffix(".launch.py") for path in folder.glob("*.launch.py")} == set(BRINGUPS)


def test_any_bringup_can_be_shown_in_the_viewer(model: str) -> None:
    nodes = started(with_view(from_text("pusht_demo", {"model": model}), "kept/run.rrd"))
    assert nodes["view"].parameters["task"] == "pusht_state"
    assert nodes["view"].parameters["use_sim_time"] is True and not nodes["view"].required
    assert nodes["view"].parameters["rerun"] == str(Path("kept/run.rrd").absolute())
    with pytest.raises(UserError, match="needs task:="):
        with_view(from_text("policy", {"model": model}), "spawn")


def test_the_demo_waits_for_the_policy_in_lockstep(model: str) -> None:
    nodes = started(from_text("pusht_demo", {"model": model, "seed": "7"}))
    assert nodes["pusht"].parameters["lockstep_participants"] == ["policy"]
    assert nodes["pusht"].parameters["seed"] == 7
    assert nodes["pusht"].parameters["use_sim_time"] is False
    assert nodes["policy"].parameters["use_sim_time"] is True
    assert nodes["policy"].parameters["autostart"] is True


def test_in_real_time_nobody_listens_to_clock(model: str) -> None:
    nodes = started(from_text("pusht_demo", {"model": model, "lockstep": "False"}))
    assert all(node.parameters["lockstep"] is False for node in nodes.values())
    assert all(node.parameters["use_sim_time"] is False for node in nodes.values())


def test_collecting_waits_for_operator_and_recorder() -> None:
    nodes = started(from_text("collect", {"out": "demonstrations.zarr"}))
    assert nodes["pusht"].parameters["lockstep_participants"] == ["teleop", "recorder"]
    assert Path(str(nodes["recorder"].parameters["out"])).is_absolute()


def test_how_a_robot_is_guarded_can_be_said_at_the_launch(model: str) -> None:
    given = {
        "dry_run": "true",
        "deadman_required": "true",
        "mode": "rtc",
        "operator_topic": "/leader/commands",
    }
    (policy,) = from_text("policy", {"model": model, **given}).nodes
    assert policy.parameters["dry_run"] is True
    assert policy.parameters["deadman_required"] is True
    assert policy.parameters["mode"] == "rtc"
    assert policy.parameters["operator_topic"] == "/leader/commands"


def test_a_real_robot_gets_the_policy_alone_on_wall_time(model: str) -> None:
    (policy,) = from_text("policy", {"model": model}).nodes
    assert policy.parameters["use_sim_time"] is False
    assert policy.parameters["task"] == ""


def test_a_task_file_is_handed_on_as_an_absolute_path(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine")
    monkeypatch.chdir(tmp_path)
    (policy,) = from_text("policy", {"model": model, "task": "mine.yaml"}).nodes
    assert policy.parameters["task"] == str(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("pusht_dmeo", {}, "did you mean pusht_demo"),
        ("collect", {"out": "a", "sed": "3"}, "did you mean seed"),
        ("collect", {}, "collect needs out:="),
        ("collect", {"out": "a", "seed": "many"}, "seed:=many: expected a whole number"),
        ("collect", {"out": "a", "lockstep": "maybe"}, "expected true or false"),
        ("policy", {"model": "no/such/folder"}, "no/such/folder.*manifest.json"),
    ],
)
def test_a_mistake_is_answered_with_what_is_expected(name: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_text(name, given)


def test_a_model_is_found_by_path_before_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped, mine = tmp_path / "share/models/pusht_state", tmp_path / "work/pusht_state"
    for folder in (shipped, mine):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    monkeypatch.setattr("dp_ros.bringup.share_dir", lambda: tmp_path / "share")
    monkeypatch.chdir(tmp_path)
    assert model_folder("pusht_state") == str(shipped)
    monkeypatch.chdir(tmp_path / "work")
    assert model_folder("pusht_state") == str(mine)


@pytest.mark.parametrize("name", BRINGUPS)
def test_a_launch_file_starts_the_same_nodes(name: str, model: str) -> None:
    pytest.importorskip("launch_ros")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from dp_ros.bridge.launch_description import launch_description

    entities = launch_description(name).entities
    declared = {e.name: e.description for e in entities if isinstance(e, DeclareLaunchArgument)}
    assert declared == {a.name: a.description for a in arguments_of(name)}
    context = LaunchContext()
    given = {"model": model, "out": "demonstrations.zarr"}
    for argument in arguments_of(name):
        value = given.get(argument.name, str(argument.default))
        context.launch_configurations[argument.name] = value
    (opaque,) = [e for e in entities if isinstance(e, OpaqueFunction)]
    actions = opaque.execute(context) or []
    names = [node.name for bringup in all_bringups(model) if bringup.name == name for node in bringup.nodes]
    assert len(actions) == len(names)

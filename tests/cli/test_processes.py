"""The options of several processes: what does not go together is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.cli.main import main
from flaxen.cli.processes import ProcessOptions
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.processes import Processes, check_mesh, this_process
from flaxen.sharding.shape import MeshShape, parse_mesh

ADDRESS = "127.0.0.1:1234"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_processes": 2}, "--num-processes and --process-id need --coordinator-address"),
        *(
            (
                {"coordinator_address": wrong, "num_processes": 2, "process_id": 0},
                f"--coordinator-address '{wrong}' is not HOST:PORT: give where process 0 listens",
            )
            for wrong in ("nonsense", "10.0.0.1", ":9876", "10.0.0.1:port", "10.0.0.1:99999")
        ),
        ({"coordinator_address": ADDRESS}, "needs --num-processes N, and --process-id from 0 to"),
        (
            {"coordinator_address": ADDRESS, "num_processes": 2, "process_id": 2},
            "--process-id 2 is not one of 2 processes: give 0 to 1",
        ),
        (
            {"coordinator_address": "auto", "num_processes": 2},
            "--coordinator-address auto finds out --num-processes and --process-id: leave them",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProcessOptions(**given).start()


def test_each_process_has_as_many_devices() -> None:
    assert ProcessOptions().num_local_devices(4) == 4
    assert ProcessOptions(coordinator_address="auto").num_local_devices(4) == 1
    two = ProcessOptions(coordinator_address=ADDRESS, num_processes=2, process_id=0)
    assert two.num_local_devices(4) == 2
    with pytest.raises(ValueError, match="a mesh of 3 devices can't be divided over 2 processes"):
        two.num_local_devices(3)


def test_without_options_there_is_one_process() -> None:
    assert not ProcessOptions().start()
    assert this_process() == Processes(count=1, index=0)


def test_a_mesh_over_processes_uses_all_devices() -> None:
    check_mesh(parse_mesh("tensor=2"), Processes())
    num = make_mesh(MeshShape()).devices.flat[0].client.device_count()
    check_mesh(MeshShape(tensor=num), Processes(count=2))
    with pytest.raises(ValueError, match=rf"processes have {num} in all: .* for example tensor="):
        check_mesh(MeshShape(tensor=2), Processes(count=2))


def test_fine_tuning_beside_serving_stays_in_one_process(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    joined = ["--coordinator-address", ADDRESS, "--num-processes", "2", "--process-id", "0"]
    assert main(["serve", "a-model", "--data-dir", str(tmp_path), *joined]) != 0
    assert "--data-dir and --coordinator-address don't go together" in capsys.readouterr().err

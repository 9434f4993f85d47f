"""`doctor` on a running node with a real PACS: no faults, and the whole loop with a phantom."""

import json
from collections.abc import Callable, Iterable
from contextlib import closing

import pytest
from support.running_node import RunningNode

from pacs_node import config
from pacs_node.demo.pacs import Address, Orthanc
from pacs_node.dicom import phantom
from pacs_node.journal.database import Database
from pacs_node.operate.doctor import Check, remote
from pacs_node.operate.doctor.roundtrip import Loop

pytestmark = pytest.mark.slow

CONFIG = """
[study]
quiet_seconds = 1
[web]
port = 0
[[peers]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
[[destinations]]
name = "orthanc"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
"""


def faults(checks: Iterable[Check]) -> Check:
    (fault,) = [check for check in checks if check.state == "fail"]
    return fault


def test_a_phantom_passes_the_whole_loop_or_doctor_names_the_step_that_failed(
    new_node: Callable[..., RunningNode], orthanc: Orthanc, route: Callable[[Address], None]
) -> None:
    node = new_node(CONFIG.format(port=orthanc.address.port), ae_title="DOCTORNODE")
    settings = config.load(node.storage.parent / "config.toml")
    (destination,) = settings.destinations
    with closing(Database(settings.database_url)) as database:
        loop = Loop(settings, database, destination, phantom.disposable_study(), 1, "DOCTORNODE")
        assert faults(loop.run()).what == "loop: node"
        node.start()
        # An Orthanc that does not know this node accepts its C-ECHO and hangs up on all else.
        unknown = faults(remote.destination(settings, destination))
        assert unknown.what == "orthanc: C-FIND"
        assert "DOCTORNODE is not registered there" in unknown.found
        titles = {"doctor": node.address.ae_title, "xray": "XRAY1"}
        for name, title in titles.items():
            me = {"AET": title, "Host": "127.0.0.1", "Port": node.address.port}
            orthanc.rest.put(f"/modalities/{name}", me)
        stopped = faults(loop.run())
        assert stopped.what == "loop: forwarded"
        assert f"does it send to DOCTORNODE, port {node.address.port}" in stopped.advice

    route(node.address)
    done = node.run("doctor", "--json", "--loop", "orthanc", "--as", "XRAY1")
    checks = json.loads(done.stdout)
    assert done.returncode == 0, [check for check in checks if check["state"] == "fail"]
    by_subject = {check["what"]: check for check in checks}
    stages = ["sent", "forwarded", "analyzed", "reported", "delivered", "found", "clean up"]
    assert [what for what in by_subject if what.startswith("loop: ")] == [
        f"loop: {stage}" for stage in stages
    ]
    assert "by C-FIND: SC, SC, SR" in by_subject["loop: found"]["found"]
    assert "PACSNODE^TEST" in by_subject["loop: clean up"]["found"]
    assert by_subject["roles"]["state"] == by_subject["DICOM port"]["state"] == "ok"
    assert "held by this node's role receive" in by_subject["DICOM port"]["found"]
    assert "DOCTORNODE" in by_subject["orthanc: its side"]["found"]
    for name in titles:
        orthanc.rest.call("DELETE", f"/modalities/{name}")
    # They are of today, which other tests ask this Orthanc about.
    for patient in orthanc.rest.post(
        "/tools/find", {"Level": "Patient", "Query": {"PatientID": "PACSNODE-TEST"}}
    ):
        orthanc.rest.call("DELETE", f"/patients/{patient}")

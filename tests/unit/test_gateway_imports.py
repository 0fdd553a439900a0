"""A gateway starts without what only settlement and admin need: half of its start were imports."""

import json
import subprocess
import sys

FOREIGN = (
    *("alembic", "aiosmtplib", "mako", "requests", "sqlalchemy", "stripe"),
    # The REST API, with its models and all that it calls.
    *("sidecar.inbound.http.admin_edge", "sidecar.inbound.http.table", "sidecar.app.control_plane"),
)


def test_what_a_gateway_serves_with_brings_no_library_of_the_control_plane():
    code = (
        "import json, sys; import sidecar.app.commands, sidecar.app.servers;"
        f" print(json.dumps(sorted(set({FOREIGN!r}) & sys.modules.keys())))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(told.stdout) == []

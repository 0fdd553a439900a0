"""
A gateway starts without what only others need: half of its start were imports, and a fourth of
its memory.
"""

import json
import subprocess
import sys

FOREIGN = (
    *("alembic", "aiosmtplib", "asyncpg", "jinja2", "mako", "requests", "sqlalchemy", "stripe"),
    # What verifies tokens comes with the first key set of a policy. (redis-py asks whether there
    # is a `cryptography`, and imports no more than its name.)
    *("cryptography.x509", "cryptography.hazmat.primitives", "jwt", "sidecar.outbound.jwks_keys"),
    # Terminals: the expression library's command line, logs in colour, and help.
    *("cel.cli", "greenlet", "prompt_toolkit", "pygments", "rich", "wcwidth"),
    # The REST API, with its models and all that it calls.
    *("sidecar.inbound.http.admin_edge", "sidecar.inbound.http.table", "sidecar.app.control_plane"),
    # Other commands, and what explains, makes anew, and asks the database of record.
    *("sidecar.cli.commands", "sidecar.inbound.envoy.bootstrap"),
    *("sidecar.app.explaining", "sidecar.app.rebuilding", "sidecar.services.explaining"),
    *("sidecar.outbound.postgres.pool", "sidecar.outbound.embedded.postgres_server"),
)
SERVES = """
import json, sys
import sidecar.cli, sidecar.cli.serve, sidecar.app.commands, sidecar.app.servers
print(json.dumps(sorted(set(json.loads(sys.argv[1])) & sys.modules.keys())))
"""
WHOLE = """
import sidecar.app.servers, sys
from sidecar.domain.cel_library import cel
assert cel.evaluate("1 + 2") == 3
import rich.console, greenlet, cel.cli
assert callable(cel.cli.main), cel.cli
assert sys.modules["rich"].console is rich.console
"""


def test_what_a_gateway_serves_with_brings_no_library_of_the_control_plane():
    command = [sys.executable, "-c", SERVES, json.dumps(FOREIGN)]
    told = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(told.stdout) == []


def test_what_was_left_out_is_there_for_whoever_asks_later():
    subprocess.run([sys.executable, "-c", WHOLE], check=True)

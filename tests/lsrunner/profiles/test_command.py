"""Any program: started with what it needs to be metered, and asked nothing."""

import json
import sys

import uvloop

from tests.support.eventually import eventually
from tests.support.lsrunner import as_setting, running


def test_a_program_of_the_profile_command_gets_the_environment_and_no_turns():
    """Trust, proxy with its label, home; the user's own variables; a private directory to work in."""
    tell = "import json, os, time; print(json.dumps([dict(os.environ), os.getcwd()])); import sys; sys.stdout.flush(); "
    tell += "open(os.environ['TELL'], 'w').write(json.dumps([dict(os.environ), os.getcwd()])); time.sleep(60)"

    async def story():
        async with running(
            {
                "WIREMETER_LSRUNNER_PROFILE": "command",
                "WIREMETER_LSRUNNER_COMMAND": as_setting([sys.executable, "-c", tell]),
                "WIREMETER_LSRUNNER_LABEL": "mine/1",
                "WIREMETER_LSRUNNER_ENVIRONMENT": '{"TELL": "told.json", "LANG": "de_DE.UTF-8"}',
            }
        ) as (runner, asker):
            state = await runner.in_state("ready")
            assert (state["accepts_turns"], state["label"], state["models"]) == (False, "mine/1", [])
            told = runner.state.home / "workspace" / "told.json"
            environment, directory = eventually("the program's word", lambda: _json(told))
            assert directory == str(runner.state.home / "workspace")
            proxy = f"http://mine%2F1:@127.0.0.1:{runner.tunnel.port}"
            assert environment["HTTPS_PROXY"] == environment["https_proxy"] == proxy
            assert environment["SSL_CERT_FILE"] == str(runner.state.trust_bundle)
            assert (environment["SSL_CERT_DIR"], environment["LANG"]) == ("/dev/null", "de_DE.UTF-8")
            assert environment["NODE_EXTRA_CA_CERTS"] == str(runner.state.authority_certificate)
            assert environment["HOME"] == str(runner.state.home)
            assert not [name for name in environment if name.startswith("WIREMETER_")]
            await asker.ask("T1", "hello")
            failed = await asker.end_of("T1")
            assert (failed["kind"], failed["number"]) == ("invalid", 0)

    uvloop.run(story())


def _json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None

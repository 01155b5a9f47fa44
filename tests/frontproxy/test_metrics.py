"""The metrics page."""

from services.events.lifecycle import ProcessBeat
from services.frontproxy.health import HealthView
from services.frontproxy.metrics import metrics_text

REPORT = {
    "by_model": [
        {
            "model": 'odd"name\\',
            "provider": "gcp.gen_ai",
            "usage": {"input_tokens": 15},
            "outcomes": {"ok": 2},
        }
    ]
}


def test_the_page_has_one_line_per_fact():
    """Families in order, each with help and type, labels escaped."""
    view = HealthView()
    view.hear_beat(ProcessBeat(process="mitm-0", pid=1, version="", at="", started_at=""), 100.0)
    page = metrics_text(view.report(100.0), REPORT)
    assert page.endswith("\n")
    assert [line for line in page.splitlines() if not line.startswith("# HELP")] == [
        "# TYPE wiremeter_process_up gauge",
        'wiremeter_process_up{process="mitm-0"} 1',
        "# TYPE wiremeter_missing gauge",
        "wiremeter_missing 3",
        "# TYPE wiremeter_language_server_ready gauge",
        "wiremeter_language_server_ready 0",
        "# TYPE wiremeter_responses_total counter",
        'wiremeter_responses_total{provider="gcp.gen_ai",model="odd\\"name\\\\",outcome="ok"} 2',
        "# TYPE wiremeter_usage_total counter",
        'wiremeter_usage_total{provider="gcp.gen_ai",model="odd\\"name\\\\",count="input_tokens"} 15',
    ]


def test_an_empty_ledger_has_no_counters():
    """A count that nobody reported has no line."""
    assert "wiremeter_usage_total" not in metrics_text(HealthView().report(0.0), {"by_model": []})
    assert "wiremeter_usage_total" not in metrics_text(HealthView().report(0.0), {})

"""The parser of prometheus_client accepts /metrics."""

import re

import requests
from prometheus_client.parser import text_string_to_metric_families


def families(server):
    answer = requests.get(f"{server.url}/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def test_metrics_have_help_and_conventional_names(server):
    found = families(server)
    assert found
    for name, family in found.items():
        assert family.documentation, name
        assert family.type in ("counter", "gauge", "histogram", "info"), f"{name} is {family.type}"
        assert re.fullmatch("(onnxd|process)_[a-z_]+", name), name
        assert not re.search("_(ms|us|millis|micros|kb|mb)$", name), name


def test_a_request_is_counted(server):
    def total():
        requests_total = families(server)["onnxd_requests"]
        return sum(sample.value for sample in requests_total.samples if sample.name.endswith("_total"))

    before = total()
    body = {"model": "tiny", "inputs": "a"}
    assert requests.post(f"{server.url}/embed", json=body, timeout=10).status_code == 200
    assert total() >= before + 1

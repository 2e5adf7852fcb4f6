"""schemathesis: every answer conforms to /openapi.json and none is a 5xx, whatever the request."""

import json

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as openapi_checks

EXAMPLES = 30
# None keeps the generated name.
MODELS = st.sampled_from(["tiny", "rerank", "classify", "tensor", "types", "two", None])
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
# Deterministic cases, so that failures can be reproduced.
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("application/x-ndjson")
def lines(_, value):
    return json.dumps(value).encode()


def create_collection(server):
    """Creates the collection that the calls name, unless it exists."""
    body = {"metadata": {"model": "tiny"}}
    answer = requests.put(f"{server.url}/collections/docs", json=body, timeout=30)
    assert answer.status_code in (200, 409), answer.text


def violation(operation, mode):
    """Describes the first violation in calls of the operation, if any."""

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode), model=MODELS)
    def try_it(case, model):
        # A generated name would always be answered with 404.
        for part in (case.path_parameters, case.body):
            if model and isinstance(part, dict) and isinstance(part.get("model"), str):
                part["model"] = model
        for parameter in ("collection", "vector_store"):
            if model and parameter in (case.path_parameters or {}):
                case.path_parameters[parameter] = "docs"
        case.call_and_validate(checks=CHECKS, timeout=30)

    try:
        try_it()
    except (Unsatisfiable, pytest.skip.Exception) as error:
        # Operations without parameters have no invalid calls.
        if mode == GenerationMode.POSITIVE:
            return f"{operation.label}: no call is possible: {error}"
    except (FailureGroup, Exception) as error:
        return f"{operation.label} ({mode.value}): {error}"


def test_every_answer_conforms_to_the_document(server):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 10
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    tried = []
    for operation in operations:
        # A call before may have deleted it.
        create_collection(server)
        tried += [violation(operation, mode) for mode in modes]
    found = [violation for violation in tried if violation]
    assert not found, "\n\n".join(found)

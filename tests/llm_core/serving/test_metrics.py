from __future__ import annotations

from typing import Any

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host


def numbers(client: TestClient) -> dict[str, float]:
    """All samples, by name and the labels' values."""
    response = client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(response.text)
    return {" ".join([each.name, *each.labels.values()]): each.value for family in families for each in family.samples}


def test_answers_are_counted_under_vllms_names(engine: Engine, host: Host) -> None:
    with TestClient(create_app(Service(host, engine))) as client:
        ask = {"model": "tiny", "prompt": "The state of our union " * 3, "max_tokens": 7, "temperature": 0}
        usage = [client.post("/v1/completions", json=ask).json()["usage"] for _ in range(2)]
        client.get("/nowhere")
        found = numbers(client)
    assert found["vllm:request_success_total length tiny"] == 2
    assert found["vllm:prompt_tokens_total tiny"] == 2 * usage[0]["prompt_tokens"]
    assert found["vllm:generation_tokens_total tiny"] == 14
    assert found["vllm:prefix_cache_hits_total tiny"] == usage[1]["prompt_tokens_details"]["cached_tokens"] > 0
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_time_per_output_token"):
        assert found[f"vllm:{name}_seconds_count tiny"] == 2
    assert 0 < found["vllm:time_to_first_token_seconds_sum tiny"] <= found["vllm:e2e_request_latency_seconds_sum tiny"]
    assert found["vllm:num_requests_running tiny"] == found["vllm:num_requests_waiting tiny"] == 0
    assert found["tidemill_num_requests_waiting"] == found["vllm:kv_cache_usage_perc tiny"] == 0
    assert found["tidemill:http_responses_total /v1/completions 200"] == 2
    assert found["tidemill:http_responses_total none 404"] == 1


def test_swaps_and_refusals_are_counted(engine: Engine, host: Host, script: Any) -> None:
    with TestClient(create_app(Service(host, engine))) as client:
        host.first.install(script("a", version="2"))
        host.first.install(script("b", version="3"))
        host.first.refuse("tiny@4", "no ledger entry")
        found = numbers(client)
    assert found["tidemill:swaps_total tiny"] == 2 and found["tidemill:refused_versions_total tiny"] == 1
    assert found["tidemill:serving tiny 3"] == 1 and "tidemill:serving tiny 2" not in found

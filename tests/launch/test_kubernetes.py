"""launch/k8s.yaml without a cluster: what Kubernetes' schemas say of it, and what they cannot see."""

from typing import Any

import kubernetes_validate
import pytest
import yaml
from hosts import ROOT

from fer_scale import starts, supervise

SERVICE, JOB = yaml.safe_load_all((ROOT / "launch/k8s.yaml").read_text())
NAME = JOB["metadata"]["name"]
POD = JOB["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ENV = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in CONTAINER["env"]}


@pytest.mark.parametrize("version", ["1.25", "1.29", "1.37"])
@pytest.mark.parametrize("resource", [SERVICE, JOB], ids=lambda resource: resource["kind"])
def test_every_key_is_one_that_kubernetes_knows(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_pods_have_numbers_and_a_failed_one_is_not_restarted_alone() -> None:
    assert JOB["spec"]["completionMode"] == "Indexed" and POD["restartPolicy"] == "Never"
    assert JOB["spec"]["parallelism"] == JOB["spec"]["completions"] == int(ENV["NODES"])
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert ENV["NODE"] == {"fieldRef": {"fieldPath": index}}


def test_pods_find_the_first_of_them_by_the_name_that_the_service_gives() -> None:
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": NAME}
    assert SERVICE["spec"]["clusterIP"] == "None" and SERVICE["spec"]["publishNotReadyAddresses"] is True
    assert SERVICE["metadata"]["name"] == POD["subdomain"]
    assert ENV["MAIN"] == f"{NAME}-0.{POD['subdomain']}:29500"


def test_what_is_mounted_is_there_and_readers_have_shared_memory() -> None:
    assert {volume["name"] for volume in POD["volumes"]} == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    [shm] = [mount["name"] for mount in CONTAINER["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    [volume] = [volume for volume in POD["volumes"] if volume["name"] == shm]
    assert volume["emptyDir"]["medium"] == "Memory"


def test_a_pod_that_is_taken_away_has_the_time_to_save() -> None:
    assert POD["terminationGracePeriodSeconds"] > 25 + supervise._MARGIN_S + supervise._PATIENCE_S  # run.grace_s


def test_a_mistake_ends_the_job_and_neither_a_preempted_pod_nor_a_drained_one_counts_as_failed() -> None:
    *codes, drained = JOB["spec"]["podFailurePolicy"]["rules"]
    assert drained["action"] == "Ignore"
    assert [condition["type"] for condition in drained["onPodConditions"]] == ["DisruptionTarget"]
    action = {code: rule["action"] for rule in codes for code in rule["onExitCodes"]["values"]}
    assert action == {starts.MISTAKE: "FailJob", starts.PREEMPTED: "Ignore"}
    assert all(rule["onExitCodes"]["operator"] == "In" and not rule["onPodConditions"] for rule in codes)


def test_no_token_stands_in_the_manifest() -> None:
    assert not [name for name in ENV if "TOKEN" in name and not name.endswith("_PATH")]

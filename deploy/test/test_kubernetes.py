"""The manifests: what kustomize makes of every overlay is what the API takes, field by field, and holds together."""

import json
import os
import re
import shutil
import textwrap

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as monitoring

import box

FOLDER = box.ROOT / "deploy/kubernetes"
OVERLAYS = [FOLDER / "base", *sorted((FOLDER / "overlays").iterdir())]
VERSIONS = ["1.30", "1.37"]


def render(folder):
    command = ["kustomize", "build"] if shutil.which("kustomize") else ["kubectl", "kustomize"]
    return list(yaml.safe_load_all(box.run(*command, folder)))


def check(manifest, version):
    if manifest["kind"] == "ServiceMonitor":
        # Of the operator's own schema; a field that it does not know is an error as well.
        model = monitoring.ServiceMonitor.model_validate(manifest)
        assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == manifest
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_manifest_is_what_the_api_takes(folder, version):
    manifests = render(folder)
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {manifest["kind"] for manifest in manifests}
    for manifest in manifests:
        check(manifest, version)


def test_the_second_model_of_the_readme_has_names_and_selectors_of_its_own(tmp_path):
    text = (box.ROOT / "deploy/README.md").read_text()
    block = re.search(r"^( +)apiVersion: kustomize(?:.*\n)(?:(?:\1(?!```).*)?\n)*", text, re.M)
    overlay = textwrap.dedent(block[0]).replace("../overlays", os.path.relpath(FOLDER / "overlays", tmp_path))
    (tmp_path / "kustomization.yaml").write_text(overlay)
    for manifest in render(tmp_path):
        check(manifest, VERSIONS[-1])
        assert manifest["metadata"]["name"].endswith("-b"), manifest
        if manifest["kind"] in ("Service", "Deployment", "PodDisruptionBudget"):
            selector = manifest["spec"]["selector"]
            assert (selector.get("matchLabels") or selector)["clipserve/model"] == "b", manifest
        if manifest["kind"] == "Deployment":
            environment = {variable["name"]: variable["value"] for variable in manifest["spec"]["template"]["spec"]["containers"][0]["env"]}
            assert environment["CLIPSERVE__MODEL__PATH"] == "/models/another" and len(environment) == 3, environment


def test_a_wrong_field_is_seen():
    for manifest in render(FOLDER / "overlays/autoscaling"):
        manifest["spec"]["replcas"] = 2
        with pytest.raises(Exception):
            check(manifest, VERSIONS[-1])


def test_the_job_is_what_the_api_takes():
    check(yaml.safe_load((FOLDER / "embed-job.yaml").read_text()), VERSIONS[-1])


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_what_names_another_part_names_one_that_is_there(folder):
    manifests = render(folder)
    deployment = next(manifest for manifest in manifests if manifest["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    container, = template["spec"]["containers"]
    labels, ports = template["metadata"]["labels"], {port["name"] for port in container["ports"]}
    volumes = {volume["name"] for volume in template["spec"].get("volumes", [])}
    assert {mount["name"] for mount in container.get("volumeMounts", [])} == volumes
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    services = []
    for manifest in manifests:
        spec = manifest.get("spec", {})
        selector = {"Service": spec.get("selector"), "Deployment": spec.get("selector"), "PodDisruptionBudget": spec.get("selector"),
                    "NetworkPolicy": spec.get("podSelector")}.get(manifest["kind"])
        if selector:
            assert (selector.get("matchLabels") or selector).items() <= labels.items(), manifest
        if manifest["kind"] == "Service":
            services.append(manifest)
            assert {port["targetPort"] for port in spec["ports"]} <= ports
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"] and "replicas" not in deployment["spec"]
        if manifest["kind"] == "ServiceMonitor":
            chosen, = [service for service in services if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()]
            assert {end["port"] for end in spec["endpoints"]} <= {port["name"] for port in chosen["spec"]["ports"]}
            assert chosen["metadata"]["labels"][spec["jobLabel"]] == "clipserve", "alerts.yml goes by this job"
            assert "annotations" not in template["metadata"], "it would be scraped twice"

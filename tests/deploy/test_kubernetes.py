"""docker/kubernetes: built by kustomize, held against the Kubernetes API's own schemas, and against what the gateway reads."""
import base64
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import BUILD, CACHE, ROOT, npm, run, tool

FOLDER = ROOT / "docker/kubernetes"
SECRETS = {"master_key": os.urandom(32).hex(), "admin_token": "t0ken",
           "keys.jsonl": json.dumps({"user": "sip:a@example.org", "type": "ink", "id": "i", "key": os.urandom(32).hex()}) + "\n"}

# Every object by its model: validate() finds what is missing or mistyped; the typed program that is written, compiled with
# --strict, finds what is unknown.
VALIDATE = """\
const { readFileSync, writeFileSync } = require("fs");
const { parseAllDocuments } = require("yaml");
let bad = 0;
const lines = [];
for (const doc of parseAllDocuments(readFileSync(process.argv[2], "utf8"))) {
  const o = doc.toJSON();
  if (o.kind === "Secret") for (const k in o.data) o.data[k] = o.data[k].replace(/\\n/g, ""); // as the API's decoder does
  const path = o.apiVersion;
  const Model = require("kubernetes-models/" + path + "/" + o.kind)[o.kind];
  try { new Model(o).validate(); } catch (e) { bad++; console.error(o.kind + "/" + o.metadata.name + ": " + e.message); }
  const { apiVersion, kind, ...rest } = o;
  lines.push(`import { I${kind} as T${lines.length} } from "kubernetes-models/${path}/${kind}";`,
             `export const o${lines.length}: T${lines.length} = ` + JSON.stringify(o) + ";");
}
writeFileSync(process.argv[3], lines.join("\\n") + "\\n");
process.exit(bad ? 1 : 0);
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The manifests, with secrets as docker/README.md makes them."""
    path = tmp_path_factory.mktemp("k8s") / "kubernetes"
    shutil.copytree(FOLDER, path)
    (path / "secrets").mkdir(exist_ok=True)
    for name, text in SECRETS.items():
        (path / "secrets" / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def built(folder):
    return run(tool("kubectl"), "kustomize", folder).stdout


@pytest.fixture(scope="module")
def objects(built):
    return {o["kind"] + "/" + re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"]): o for o in yaml.safe_load_all(built)}


def validate(text, tmp_path):
    npm("kubernetes-models")
    modules = npm("yaml").parent
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "objects.yaml").write_text(text)
    (tmp_path / "validate.js").write_text(VALIDATE)
    r = run("node", "validate.js", "objects.yaml", "objects.ts", cwd=tmp_path, ok=False)
    if r.returncode:
        return r.stderr
    r = run("node", modules / "typescript/bin/tsc", "--strict", "--noEmit", "--skipLibCheck", "--module", "nodenext", "--moduleResolution",
            "nodenext", "--target", "es2022", "objects.ts", cwd=tmp_path, ok=False)
    return r.stdout


def test_the_api_accepts_them(built, tmp_path):
    tool("node")
    assert validate(built, tmp_path) == ""


@pytest.mark.parametrize("good,bad,said", [
    ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "readOnlyRootFileSystem"),
    ("containerPort: 8443", "containerPort: https", "containerPort"),
    ("minAvailable: 1", "minAvailabel: 1", "minAvailabel"),
    ("  podSelector:", "  podSelectors:", "podSelector"),
])
def test_what_the_api_would_refuse(built, tmp_path, good, bad, said):
    tool("node")
    assert good in built
    assert said in validate(built.replace(good, bad, 1), tmp_path)


def test_missing_secrets_are_named(tmp_path):
    path = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, path, ignore=shutil.ignore_patterns("secrets"))
    r = run(tool("kubectl"), "kustomize", path, ok=False)
    assert r.returncode != 0 and "secrets/" in r.stderr


def pod(objects):
    return objects["Deployment/kms"]["spec"]["template"]["spec"]


def test_the_images_can_be_pulled(objects):
    """From a registry that is named, by a tag: a bare name is some stranger's image of the public registry, its newest."""
    for c in pod(objects)["containers"] + pod(objects)["initContainers"]:
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+/[a-z0-9/-]+:(?!latest)[\w.-]+", c["image"]), c["image"]
        assert c["imagePullPolicy"] == "IfNotPresent"


def test_nobody_passes_by_the_gate(objects):
    spec = pod(objects)
    kms = [c for c in spec["initContainers"] if c["name"] == "kms"][0]
    assert kms["args"] == ["--listen", "127.0.0.1:9000"] and not kms.get("ports")
    # a sidecar in Kubernetes' sense: started before the gateway, ended after it, so that the gateway can drain
    assert kms["restartPolicy"] == "Always"
    assert [c["name"] for c in spec["containers"]] == ["kmsgate"]
    assert not spec.get("hostNetwork")
    ports = [p["targetPort"] for p in objects["Service/kms"]["spec"]["ports"]]
    assert ports == ["https"]


def test_locked_down(objects):
    spec = pod(objects)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    for c in spec["containers"] + spec["initContainers"]:
        s = c["securityContext"]
        assert s["readOnlyRootFilesystem"] and not s["allowPrivilegeEscalation"] and s["capabilities"]["drop"] == ["ALL"]
        assert c["resources"]["requests"]["memory"] and c["resources"]["limits"]["memory"]
    for v in spec["volumes"]:
        assert "secret" not in v or v["secret"]["defaultMode"] == 0o440, v
    policy = objects["NetworkPolicy/kms"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"] == []
    admin = [r for r in policy["ingress"] if r["ports"][0]["port"] == "admin"]
    assert len(admin) == 1 and admin[0]["from"]
    labels = objects["Deployment/kms"]["spec"]["template"]["metadata"]["labels"].items()
    for name in ("NetworkPolicy/kms", "PodDisruptionBudget/kms", "Service/kms"):
        s = objects[name]["spec"]
        selector = s.get("podSelector", s.get("selector"))
        assert selector.get("matchLabels", selector).items() <= labels


def test_ends_without_a_gap(objects):
    """Numbers that belong together, in two files."""
    config = yaml.safe_load(objects["ConfigMap/kmsgate-config"]["data"]["gateway.yaml"])
    seconds = lambda t: int(t.rstrip("s"))
    gate = pod(objects)["containers"][0]
    probe = gate["readinessProbe"]
    assert seconds(config["drain_delay"]) > 2 * probe["periodSeconds"] * probe["failureThreshold"]
    assert pod(objects)["terminationGracePeriodSeconds"] > seconds(config["drain_delay"]) + seconds(config["drain_timeout"])
    assert objects["Deployment/kms"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    ports = {p["name"]: p["containerPort"] for p in gate["ports"]}
    assert config["admin"].endswith(":%d" % ports["admin"]) and config["listen"][0]["address"].endswith(":%d" % ports["https"])
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert gate[kind]["httpGet"]["port"] == "admin"


def test_names_that_change_and_names_that_stay(objects, built):
    names = {o["metadata"]["name"] for o in objects.values()}
    for v in pod(objects)["volumes"]:
        made = v.get("configMap", {}).get("name") or v.get("secret", {}).get("secretName")
        assert not made or made == "kmsgate-tls" or made in names, made
    assert "kmsgate-rules" in names, "a running gateway follows the rules: their name must not change"
    rules = [v for v in pod(objects)["containers"][0]["volumeMounts"] if v["name"] == "rules"]
    assert "subPath" not in rules[0]


def mount(objects, where, certs):
    """The pod's files as the kubelet lays them: ..data is a symlink to a folder, each file one into it."""
    places = {}
    for v in pod(objects)["volumes"]:
        m = [m for m in pod(objects)["containers"][0]["volumeMounts"] + pod(objects)["initContainers"][0]["volumeMounts"]
             if m["name"] == v["name"]][0]
        target = where / m["mountPath"].lstrip("/")
        (target / "..2026").mkdir(parents=True)
        (target / "..data").symlink_to("..2026")
        places[m["mountPath"]] = target
        if "configMap" in v or "secret" in v:
            name = v.get("configMap", {}).get("name") or v["secret"]["secretName"]
            if name == "kmsgate-tls":
                files = {"tls.crt": (certs / "server.pem").read_text(), "tls.key": (certs / "server.key").read_text()}
            else:
                o = [o for o in objects.values() if o["metadata"]["name"] == name][0]
                files = o["data"] if o["kind"] == "ConfigMap" else \
                    {k: base64.b64decode(x).decode() for k, x in o["data"].items()}
            for f, text in files.items():
                (target / "..data" / f).write_text(text)
                (target / "..data" / f).chmod(0o644 if "configMap" in v else v["secret"]["defaultMode"])
                (target / f).symlink_to("..data/" + f)
    return places


def test_the_gateway_takes_its_configuration(objects, certs, tmp_path):
    places = mount(objects, tmp_path, certs)
    config = places["/etc/kmsgate"] / "gateway.yaml"
    text = config.read_text()
    for path, here in sorted(places.items(), reverse=True):
        text = re.sub(r"(?<![\w.-])%s(?=/)" % re.escape(path), str(here), text)
    (places["/etc/kmsgate"] / "..data/gateway.yaml").write_text(text)
    r = run(BUILD / "kmsgate", "check", "--strict", "--config", config, ok=False)
    assert r.returncode == 0 and "0 faults, 0 lints" in r.stdout, r.stdout + r.stderr
    init = pod(objects)["initContainers"][0]
    assert init["args"][:2] == ["keys", "import"]
    r = run(BUILD / "kmsgate", *init["args"][:2], "--config", config, places["/run/kmsgate-keys"] / "keys.jsonl")
    assert "1 added" in r.stdout
    # the twin: a Secret with a key too short
    (places["/run/kmsgate"] / "..data/master_key").write_text("00" * 31)
    r = run(BUILD / "kmsgate", "check", "--config", config, ok=False)
    assert r.returncode == 1 and "is no master key" in r.stderr

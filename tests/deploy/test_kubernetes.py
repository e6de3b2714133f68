"""docker/kubernetes, one pod and a fleet: built by kustomize, held against the Kubernetes API's own schemas, and against what
the gateway reads."""
import base64
import json
import os
import re
import shutil

import pytest
import yaml

from conftest import BUILD, ROOT, npm, run, tool

FOLDER = ROOT / "docker/kubernetes"
KEYS = json.dumps({"user": "sip:a@example.org", "type": "ink", "id": "i", "key": os.urandom(32).hex()}) + "\n"
SECRETS = {"master_key": os.urandom(32).hex(), "admin_token": "t0ken", "keys.jsonl": KEYS}
FLEET_SECRETS = {"master_key": os.urandom(32).hex(), "admin_token": "t0ken", "replay_secret": os.urandom(32).hex(),
                 "replay_password": "of-redis", "engines_ca.pem": "the authority's",
                 "keys_url": "postgresql://kms_gateway:of-postgres@kms-db-rw.postgres/kms"}

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


def manifests(where):
    """All of it, with secrets as docker/README.md makes them."""
    shutil.copytree(FOLDER, where, ignore=shutil.ignore_patterns("secrets"))
    for overlay, secrets in (("pod", SECRETS), ("fleet", FLEET_SECRETS)):
        (where / overlay / "secrets").mkdir()
        for name, text in secrets.items():
            (where / overlay / "secrets" / name).write_text(text)
    return where


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """{overlay: what the cluster is given}"""
    path = manifests(tmp_path_factory.mktemp("k8s") / "kubernetes")
    return {name: run(tool("kubectl"), "kustomize", path / name).stdout for name in ("pod", "fleet")}


@pytest.fixture(params=["pod", "fleet"])
def built(request, both):
    return both[request.param]


def by_name(text):
    return {o["kind"] + "/" + re.sub(r"-[a-z0-9]{10}$", "", o["metadata"]["name"]): o for o in yaml.safe_load_all(text)}


@pytest.fixture
def objects(built):
    return by_name(built)


@pytest.fixture
def one_pod(both):
    return by_name(both["pod"])


@pytest.fixture
def fleet(both):
    return by_name(both["fleet"])


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


@pytest.mark.parametrize("overlay,good,bad,said", [
    ("pod", "readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "readOnlyRootFileSystem"),
    ("pod", "containerPort: 8443", "containerPort: https", "containerPort"),
    ("pod", "minAvailable: 1", "minAvailabel: 1", "minAvailabel"),
    ("pod", "  podSelector:", "  podSelectors:", "podSelector"),
    ("fleet", "averageUtilization: 60", "averageUtilisation: 60", "averageUtilisation"),
    ("fleet", "topologyKey: kubernetes.io/hostname", "topology: kubernetes.io/hostname", "topologyKey"),
])
def test_what_the_api_would_refuse(both, tmp_path, overlay, good, bad, said):
    tool("node")
    assert good in both[overlay]
    assert said in validate(both[overlay].replace(good, bad, 1), tmp_path)


@pytest.mark.parametrize("overlay", ["pod", "fleet"])
def test_missing_secrets_are_named(tmp_path, overlay):
    path = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, path, ignore=shutil.ignore_patterns("secrets"))
    r = run(tool("kubectl"), "kustomize", path / overlay, ok=False)
    assert r.returncode != 0 and "secrets/" in r.stderr


def pod(objects, name="kms"):
    return objects["Deployment/" + name]["spec"]["template"]["spec"]


def everything(objects):
    """Every container of every pod."""
    pods = [o["spec"]["template"]["spec"] for o in objects.values() if o["kind"] == "Deployment"]
    return [c for p in pods for c in p["containers"] + p.get("initContainers", [])]


def test_the_images_can_be_pulled(objects):
    """From a registry that is named, by a tag: a bare name is some stranger's image of the public registry, its newest."""
    for c in everything(objects):
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+/[a-z0-9/-]+:(?!latest)[\w.-]+", c["image"]), c["image"]
        assert c["imagePullPolicy"] == "IfNotPresent"


def test_nobody_passes_by_the_gate(one_pod):
    spec = pod(one_pod)
    kms = [c for c in spec["initContainers"] if c["name"] == "kms"][0]
    assert kms["args"] == ["--listen", "127.0.0.1:9000"] and not kms.get("ports")
    # a sidecar in Kubernetes' sense: started before the gateway, ended after it, so that the gateway can drain
    assert kms["restartPolicy"] == "Always"
    assert [c["name"] for c in spec["containers"]] == ["kmsgate"]
    assert not spec.get("hostNetwork")
    ports = [p["targetPort"] for p in one_pod["Service/kms"]["spec"]["ports"]]
    assert ports == ["https"]


def test_nobody_passes_by_the_gates(fleet):
    """The KMS stands alone there: its policy lets the gateways in, and nothing leads to it from outside."""
    policy = fleet["NetworkPolicy/kms-behind"]["spec"]
    labels = fleet["Deployment/kms-behind"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items() and policy["egress"] == []
    gates = fleet["Deployment/kms"]["spec"]["template"]["metadata"]["labels"]
    (rule,) = policy["ingress"]
    (only,) = rule["from"]
    assert list(only) == ["podSelector"] and only["podSelector"]["matchLabels"].items() <= gates.items()
    service = fleet["Service/kms-behind"]["spec"]
    assert service.get("type", "ClusterIP") == "ClusterIP" and service["selector"].items() <= labels.items()
    assert not service["selector"].items() <= gates.items() and not fleet["Service/kms"]["spec"]["selector"].items() <= labels.items()
    (port,) = pod(fleet, "kms-behind")["containers"][0]["ports"]
    assert [p["targetPort"] for p in service["ports"]] == [port["name"]] == [p["port"] for p in rule["ports"]]
    assert "initContainers" not in pod(fleet) and [c["name"] for c in pod(fleet)["containers"]] == ["kmsgate"]


def test_as_many_as_are_asked_for(fleet):
    """What belongs together of the autoscaler, the disruption budget and the rollout."""
    spec, scaler = fleet["Deployment/kms"]["spec"], fleet["HorizontalPodAutoscaler/kms"]["spec"]
    assert "replicas" not in spec, "each apply would undo what the autoscaler did"
    target = scaler["scaleTargetRef"]
    assert target["kind"] + "/" + target["name"] == "Deployment/kms" and target["apiVersion"] == fleet["Deployment/kms"]["apiVersion"]
    assert 3 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert [m["resource"]["name"] for m in scaler["metrics"]] == ["cpu"] and pod(fleet)["containers"][0]["resources"]["requests"]["cpu"]
    budget = fleet["PodDisruptionBudget/kms"]["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = spec["template"]["metadata"]["labels"].items()
    spread = {s["topologyKey"]: s for s in pod(fleet)["topologySpreadConstraints"]}
    assert set(spread) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert all(s["labelSelector"]["matchLabels"].items() <= labels for s in spread.values())
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    # an engine that is away makes them not ready; it must not make them start over and over
    gate = pod(fleet)["containers"][0]
    assert gate["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert gate["startupProbe"]["httpGet"]["path"] == gate["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}} in pod(fleet)["volumes"]


def test_the_ways_out(fleet):
    """The policy opens those ports, and those namespaces, that gateway.yaml needs, and no more."""
    config = yaml.safe_load(fleet["ConfigMap/kmsgate-config"]["data"]["gateway.yaml"])
    needed = {(host.split(".")[-1], int(port)) for host, port in re.findall(r"([\w.-]+):(\d+)", config["replay"]["url"])}
    needed |= {("redis", 6379)}  # what the Sentinels name
    keys = re.match(r"postgresql://kms_gateway@[\w-]+\.([\w-]+)/", config["keys"])
    needed |= {(keys[1], 5432), ("kube-system", 53)}
    host, port = re.match(r"http://([\w-]+):(\d+)", config["upstream"]["url"]).groups()
    assert host in {o["metadata"]["name"] for o in fleet.values() if o["kind"] == "Service"}
    open_to = set()
    for rule in fleet["NetworkPolicy/kms"]["spec"]["egress"]:
        (to,) = rule["to"]
        if "podSelector" in to:
            assert to == {"podSelector": {"matchLabels": fleet["Service/" + host]["spec"]["selector"]}}
            assert [p["port"] for p in rule["ports"]] == [int(port)]
        else:
            where = to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            open_to |= {(where, p["port"]) for p in rule["ports"]}
    assert open_to == needed


def test_locked_down(objects):
    spec = pod(objects)
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
    for c in everything(objects):
        s = c["securityContext"]
        assert s["readOnlyRootFilesystem"] and not s["allowPrivilegeEscalation"] and s["capabilities"]["drop"] == ["ALL"]
        assert c["resources"]["requests"]["memory"] and c["resources"]["limits"]["memory"]
    for v in spec["volumes"]:
        assert "secret" not in v or v["secret"]["defaultMode"] == 0o440, v
    policy = objects["NetworkPolicy/kms"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "HorizontalPodAutoscaler/kms" in objects or policy["egress"] == []
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
    mounts = [m for c in pod(objects)["containers"] + pod(objects).get("initContainers", []) for m in c.get("volumeMounts", [])]
    assert {m["name"] for m in mounts} == {v["name"] for v in pod(objects)["volumes"]}
    for v in pod(objects)["volumes"]:
        m = [m for m in mounts if m["name"] == v["name"]][0]
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


def laid(objects, where, certs):
    """The folders, and gateway.yaml with their paths in it."""
    places = mount(objects, where, certs)
    config = places["/etc/kmsgate"] / "gateway.yaml"
    text = config.read_text()
    for path, here in sorted(places.items(), reverse=True):
        text = re.sub(r"(?<![\w.-])%s(?=/|$)" % re.escape(path), str(here), text, flags=re.M)
    (places["/etc/kmsgate"] / "..data/gateway.yaml").write_text(text)
    return places, config


def test_the_gateway_takes_its_configuration(one_pod, certs, tmp_path):
    places, config = laid(one_pod, tmp_path, certs)
    r = run(BUILD / "kmsgate", "check", "--strict", "--config", config, ok=False)
    assert r.returncode == 0 and "0 faults, 0 lints" in r.stdout, r.stdout + r.stderr
    init = pod(one_pod)["initContainers"][0]
    assert init["args"][:2] == ["keys", "import"]
    r = run(BUILD / "kmsgate", *init["args"][:2], "--config", config, places["/run/kmsgate-keys"] / "keys.jsonl")
    assert "1 added" in r.stdout
    # the twin: a Secret with a key too short
    (places["/run/kmsgate"] / "..data/master_key").write_text("00" * 31)
    r = run(BUILD / "kmsgate", "check", "--config", config, ok=False)
    assert r.returncode == 1 and "is not a valid master key" in r.stderr


def test_each_gateway_takes_its_configuration(fleet, certs, tmp_path, cluster):
    """With a real database behind the Secret's URI; and the variable that names it is one that the program reads."""
    places, config = laid(fleet, tmp_path, certs)
    secrets = places["/run/kmsgate"]
    shutil.copy(certs / "ca.pem", secrets / "..data/engines_ca.pem")
    url = cluster.socket_url(cluster.database())
    (secrets / "..data/keys_url").write_text(url + "\n")
    env = {e["name"]: e["value"].replace("/run/kmsgate", str(secrets)) for e in pod(fleet)["containers"][0]["env"]}
    env = dict({k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}, **env)
    (tmp_path / "keys.jsonl").write_text(KEYS)
    (tmp_path / "keys.jsonl").chmod(0o600)
    assert "1 added" in run(BUILD / "kmsgate", "keys", "import", "--config", config, tmp_path / "keys.jsonl", env=env).stdout
    r = run(BUILD / "kmsgate", "check", "--strict", "--config", config, env=env, ok=False)
    assert r.returncode == 0 and "0 faults, 0 lints" in r.stdout, r.stdout + r.stderr
    told = re.search(r"^keys: (.*)$", run(BUILD / "kmsgate", "check", "--print", "--config", config, env=env).stdout, re.M)[1]
    assert "KMSGATE_KEYS_FILE" in told and url.split("@")[1] in told, told
    # the twin: without the Secret's file
    (secrets / "..data/keys_url").unlink()
    r = run(BUILD / "kmsgate", "check", "--config", config, env=env, ok=False)
    assert r.returncode == 1 and "keys_url" in r.stderr, r.stderr

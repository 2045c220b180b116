"""
The files of ``deploy/``: the page shows each as it is, and they keep what the package promises.

Their own programs run those of nginx, Caddy and Redis (tests/e2e/test_proxies.py).
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from filtered_websocket.conf import DEFAULTS

from .snippets import ROOT, named

pytestmark = pytest.mark.repeats
DEPLOY = ROOT / "deploy"
NAMES = [
    "deploy/Caddyfile",
    "deploy/Dockerfile",
    "deploy/compose.yml",
    "deploy/kubernetes.yml",
    "deploy/nginx/mysite.conf",
    "deploy/nginx/prefix.conf",
    "deploy/redis/redis.conf",
    "deploy/redis/users.acl",
    "deploy/systemd/mysite.service",
    "deploy/systemd/mysite.socket",
    "deploy/systemd/mysite@.service",
    "deploy/workers.py",
]
FILES = {name: (ROOT / name).read_text() for name in NAMES}
#: Seconds that a process may take to end: it drains, then its server ends.
END = DEFAULTS["DRAIN_DEADLINE"] + 2


def test_the_page_shows_every_file_as_it_is():
    shown = {
        name: code
        for name, code in named("docs/deployment.md").items()
        if name.startswith("deploy/")
    }
    assert shown == FILES
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sorted(path.relative_to(ROOT).as_posix() for path in found) == NAMES


# What others read: Docker, compose and Kubernetes are not there, their rules are

#: File -> the program that reads it, and how often it does, with which arguments.
READERS = {
    "deploy/Dockerfile": [["hadolint"]],
    "deploy/compose.yml": [["check-jsonschema", "--builtin-schema", "vendor.compose-spec"]],
    "deploy/kubernetes.yml": [
        ["kubernetes-validate", "--strict", "-k", version] for version in ("1.25", "1.37")
    ],
}


def lint(name, path):
    """Of each reader of the file whether it finds nothing, and what it says."""
    for program, *arguments in READERS[name]:
        found = Path(sys.executable).with_name(program)
        done = subprocess.run(
            [found, *arguments, path], capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        # A kind that this version of Kubernetes does not know is a warning there.
        yield done.returncode == 0 and "WARN" not in said, said


@pytest.mark.parametrize("name", READERS)
def test_docker_compose_and_kubernetes_understand_their_file(name):
    for fine, said in lint(name, ROOT / name):
        assert fine, said


@pytest.mark.parametrize(
    ("name", "right", "wrong", "word"),
    [
        ("deploy/Dockerfile", "python:3.13-slim-bookworm AS", "python AS", "DL3006"),
        ("deploy/Dockerfile", 'CMD ["venv/bin/daphne", ', "CMD venv/bin/daphne ", "DL3025"),
        ("deploy/compose.yml", "stop_grace_period", "stop_grace", "'stop_grace'"),
        ("deploy/compose.yml", ": service_started", ": service_begun", "'service_begun'"),
        ("deploy/kubernetes.yml", "readinessProbe:", "readinesProbe:", "'readinesProbe'"),
        ("deploy/kubernetes.yml", "policy/v1", "policy/v1beta1", "v1beta1"),
    ],
)
def test_a_mistake_in_a_file_is_found(name, right, wrong, word, tmp_path):
    text = FILES[name]
    assert right in text
    path = tmp_path / Path(name).name
    path.write_text(text.replace(right, wrong))
    for fine, said in lint(name, path):
        assert not fine and word in said, said


# systemd


def verify(folder, *names):
    """What ``systemd-analyze verify`` says, and whether that was nothing."""
    done = subprocess.run(
        ["systemd-analyze", "verify", *(folder / name for name in names)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and not done.stderr, done.stderr


@pytest.fixture
def units(tmp_path):
    """The units, with a server where they look for one."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine: apt-get install systemd")
    server = tmp_path / "venv" / "bin" / "daphne"
    server.parent.mkdir(parents=True)
    server.write_text("#!/bin/sh\n")
    server.chmod(0o700)
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text().replace("/srv/mysite", str(tmp_path))
        (tmp_path / path.name.replace("@", "@9001")).write_text(text)
    return tmp_path


def test_systemd_understands_the_units(units):
    fine, said = verify(units, "mysite@9001.service", "mysite.socket", "mysite.service")
    assert fine, said
    wrong = units / "mysite@9001.service"
    wrong.write_text(wrong.read_text().replace("RestartSec=", "RestartSeconds="))
    fine, said = verify(units, wrong.name)
    assert not fine and "RestartSeconds" in said


@pytest.mark.parametrize("name", ["mysite@.service", "mysite.service"])
def test_a_unit_gives_a_process_the_time_it_may_take(name):
    text = FILES[f"deploy/systemd/{name}"]
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert int(lines["TimeoutStopSec"]) > END


# Docker


def instructions(text):
    joined = text.replace("\\\n", "")
    return [line.split(" ", 1) for line in joined.splitlines() if line and line[0] != "#"]


def test_the_server_is_the_first_process_of_its_container_and_not_root():
    lines = instructions(FILES["deploy/Dockerfile"])
    command = next(words for name, words in lines if name == "CMD")
    assert command.startswith('["venv/bin/daphne"')
    assert "ENTRYPOINT" not in {name for name, _ in lines}
    last_stage = lines[max(i for i, (name, _) in enumerate(lines) if name == "FROM") :]
    assert ["USER", "10001"] in last_stage


def seconds(text):
    return int(text.removesuffix("s"))


def test_compose_gives_a_process_the_time_it_may_take_and_finds_its_files():
    services = yaml.safe_load(FILES["deploy/compose.yml"])["services"]
    assert seconds(services["web"]["stop_grace_period"]) > END
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert (DEPLOY / volume.split(":")[0]).exists(), volume
    # As many ports as replicas.
    [ports] = services["web"]["ports"]
    first, last = ports.split(":")[1].split("-")
    assert int(last) - int(first) + 1 == services["web"]["deploy"]["replicas"]
    compile(services["web"]["healthcheck"]["test"][-1], "healthcheck", "exec")


# Kubernetes


@pytest.fixture(scope="module")
def kubernetes():
    """Kind -> its manifest."""
    found = list(yaml.safe_load_all(FILES["deploy/kubernetes.yml"]))
    return {one["kind"]: one for one in found}


def test_a_pod_has_the_time_it_may_take_after_its_pause(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [_, pause] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(pause) + END


def test_probes_ask_what_is_served_with_a_host_that_is_allowed(kubernetes):
    [container] = kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"]
    hosts = {rule["host"] for rule in kubernetes["Ingress"]["spec"]["rules"]}
    paths = {}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[name]["httpGet"]
        assert {header["value"] for header in asked["httpHeaders"]} == hosts
        paths[name] = asked["path"]
    # A process that does not reach Redis is not ready; to start it again would not help.
    assert paths["livenessProbe"] == paths["startupProbe"] == "/health/live"
    assert paths["readinessProbe"] == "/health/ready"


def test_the_parts_of_the_manifest_find_each_other(kubernetes):
    labels = kubernetes["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert kubernetes["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kubernetes["Service"]["spec"]["selector"] == labels
    assert kubernetes["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    [rule] = kubernetes["Ingress"]["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == kubernetes["Service"]["metadata"]["name"]


# Redis


def rights(*pages):
    """The words of the rules that these pages name for the user ``live``."""
    words = set()
    for page in pages:
        for line in named(page)["acl"].splitlines():
            words.update(line.removeprefix("ACL SETUSER live ").split())
    return words


def test_the_user_of_redis_has_the_least_rights_of_all_that_uses_it():
    [line] = [
        line
        for line in FILES["deploy/redis/users.acl"].splitlines()
        if line.startswith("user live")
    ]
    told = line.removeprefix("user live ").split()
    assert len(told) == len(set(told))
    assert set(told) == rights("docs/architecture.md", "docs/history.md", "docs/presence.md")


def test_every_server_on_the_page_is_given_its_time():
    """Where one has an option for it: longer than a process may take to end."""
    page = Path(ROOT / "docs" / "deployment.md").read_text()
    for option in ("--timeout-graceful-shutdown", "--graceful-timeout"):
        for found in page.split(option)[1:]:
            if found.split()[0].isdigit():
                assert int(found.split()[0]) > END

"""Planted secrets are found where they lie, and never told; what only looks like one is none.

The forms are those of their makers' documentation; they are put together here, so that this file holds none.
"""

from __future__ import annotations

import base64
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest

from kbuild.audit.checks.secrets import SecretCheck
from kbuild.audit.image_facts import Description, ImageFacts, make_image_facts, wants_bytes
from kbuild.audit.image_layers import ImageLayer, LayerMember
from kbuild.audit.secrets import find_in_chunks, find_secrets, may_hold_secrets
from kbuild.audit.subject import Subject
from kbuild.digest import digest_bytes

SECRETS = {
    "AWS Access Key": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub Token": "ghp_" + "a1B2c3D4e5F6" * 3,
    "GitLab Token": "glpat-" + "x1Y2" * 5,
    "Slack Token": "xoxb-" + "123456789012-1234567890123-" + "a1b2" * 6,
    "Private Key": "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIE\n",
    "Stripe Access Key": "sk_live_" + "a1B2c3D4" * 3,
    "Google API key": "AIza" + "SyA1234567" * 3 + "abcde",
    "Hugging Face token": "hf_" + "abcdefghijklmnopq" * 2,
    "Databricks token": "dapi" + "0123456789abcdef" * 2,
    "Azure Storage Account access key": "AccountKey=" + "a" * 86 + "==",
    "AWS secret access key": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG+bPxRfiCY1234567890",
    "Azure shared access signature": "https://a.blob.example/c?sv=2022-11-02&sig=" + "aB3%2F" * 7 + "x" + "%3D",
    "Docker Hub token": "dckr_pat_" + "aB3-" * 7,
    "GitHub fine-grained token": "github_pat_" + "11ABCDEFG0" * 2 + "ab_" + "aB3" * 19 + "xy",
    "OpenAI project key": "sk-proj-" + "aB3_" * 12,
    "Vault token": "hvs." + "CAESI" * 19,
    "header with credentials": "Authorization: Bearer " + "aB3" * 9,
    "npm access token": "npm_" + "aB3d" * 9,
    "Telegram bot token": "110201543:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"[:33] + "xy",
    "PyPI Token": "pypi-AgEIcHlwaS5vcmc" + "a1B2c3D4" * 10,
    "SendGrid API Key": "SG." + "a" * 22 + "." + "b" * 43,
    "password in a url": "postgresql://till:" + "s3cr3t-9@db.example/till",
    "JSON Web Token": ".".join(("eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiIxIn0", "c2lnbmF0dXJl")),
}
INNOCENT = {
    "a lock": "- name: six\n  url: https://files.example/six-1.17.0.whl#sha256="
    + "ab" * 32
    + "\n  sha256: "
    + "0f" * 32,
    "parameters": "random_state: 7\nmax_tokens: 100\ntokenizer: bert\nprimary_key: customer_id\nkeys: [a, b]\n",
    "placeholders": "password: ${oc.env:DB_PASSWORD}\ntoken: <token>\nsecret: null\napi_key: changeme\nsecret: ''\n",
    "references": "password: $PASSWORD\ntoken: '{{ token }}'\nsecret_key: /run/secrets/key\n",
    "code": "def a(password: str, token=None):\n    secret = get_secret('x')\n    return f'https://{u}:{password}@x'\n",
    "a catalog": "cars:\n  type: pandas.CSVDataset\n  credentials: dev_s3_creds\n  load_credentials: dev_s3_creds\n",
    "a tokenizer": '{\n"eos_token": "endoftext",\n"mask_token": "[MASK]x",\n"padToken": "padding"\n}\n',
    "words about them": "Authorization: Bearer YOUR_ACCESS_TOKEN_HERE\naws_secret_access_key = \n?sig=none\n"
    "sk-proj-your-key-goes-here-and-nowhere-else\nAuthorization: Basic <credentials>\nnpm_config_registry_of_x\n",
    "names in code": "PASSWORD_FIELD = 'password'\nTOKEN = '[CLS]'\nsecret_name = 'projects/x/secrets/y'\n",
    "times and numbers": "at 12345678:AA then 2024-01-31T12:00:00\n0123456789:AAplain words and more\n",
    "a public key": "-----BEGIN PUBLIC KEY-----\nMIIB\n-----BEGIN CERTIFICATE-----\n",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_token_is_known_by_its_form_in_text_and_in_a_pickle(kind: str) -> None:
    text = f"first line\n# {SECRETS[kind]} \n"
    assert find_secrets(text) == {kind: 2}
    pickled = pickle.dumps({"a": b"\0\xff" * 5000, "b": SECRETS[kind]})
    assert list(find_in_chunks(iter([pickled]), name="x.pkl")) == [kind]


@pytest.mark.parametrize(
    "line",
    [
        "<password>hunter22</password>",
        "  <server><username>till</username><password>\n hunter22 </password></server>",
        '<add key="x" name="db" password="hunter22" />',
        "<db:Password xmlns:db='x'>hunter22</db:Password>",
    ],
)
@pytest.mark.parametrize("name", ["settings.xml", "web.config"])
def test_a_value_is_known_by_its_name_in_xml(name: str, line: str) -> None:
    assert list(find_secrets(f"<a>\n{line}\n</a>\n", name=name).values()) == [2]
    for hidden in ("${db.password}", "", "changeme", "true"):
        assert find_secrets(line.replace("hunter22", hidden), name=name) == {}


@pytest.mark.parametrize("name", [".env", "parameters.yml", "config.json", "a.toml"])
def test_a_value_is_known_by_its_name(name: str) -> None:
    line = {".env": "export DB_PASSWORD=hunter22", "a.toml": 'db_password = "hunter22"'}.get(
        name, '"db_password": "hunter22",'
    )
    assert list(find_secrets(f"a: 1\n{line}\n", name=name).values()) == [2]


DOCKER = json.dumps({"auths": {"r.example": {"auth": base64.b64encode(b"robot:hunter22").decode()}}})


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.json", json.dumps({"host": "x", "db": {"password": "correct horse", "port": 1}})),
        ("a.json", json.dumps([{"apiKey": "9f8e7d6c5b4a39281706f5e4d3c2b1a0"}])),
        ("a.json", json.dumps({"a": 1, "token": "a1b2c3d4e5f6a7b8c9"})),
        (".docker/config.json", DOCKER),
        (".dockercfg", DOCKER),
        ("root/.netrc", "machine h.example login robot password hunter22"),
        ("_netrc", "machine h.example\nlogin robot\npassword hunter22\n"),
    ],
)
def test_a_value_is_known_wherever_it_stands_in_a_line(name: str, text: str) -> None:
    assert len(find_secrets(text, name=name)) == 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("words.json", [{"token": "London", "pos": "NNP"}, {"token": "2026-11-29"}, {"bos_token": "beginning"}]),
        (
            "a.json",
            {"token": "${oc.env:TOKEN}", "password": "<password>", "auth": "basic and more", "primary_key": "abcdefg"},
        ),
        ("a.json", {"auth": base64.b64encode(b"no colon in it").decode()}),
        ("a.txt", {"password": "hunter22"}),
    ],
)
def test_what_stands_behind_such_names_may_be_none(name: str, value: object) -> None:
    assert find_secrets(json.dumps(value), name=name) == {}


@pytest.mark.parametrize("name", ["a.py", "a.ipynb", "a.sh"])
@pytest.mark.parametrize(
    "line", ["PASSWORD = 'hunter2-x'", "    db_password='h2nter-xyz',", "export API_KEY='0f1e2d3c4b'"]
)
def test_a_literal_in_code_is_known_by_its_name(name: str, line: str) -> None:
    text = f"import os\n{line}\n"
    text = json.dumps({"cells": [{"source": text.splitlines()}]}) if name.endswith("b") else text
    assert len(find_secrets(text, name=name)) == 1


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read(encoding: str) -> None:
    data = f"\ufeffa: ä\ndb_password: hunter22\n{SECRETS['GitHub Token']}\n".encode(encoding)
    assert find_in_chunks(iter([data]), name="a.yml") == {"value of db_password": 2, "GitHub Token": 3}


@pytest.mark.parametrize("line", ["credentials: s3cr3t-9!x", "bearer_token: endoftext", "eos_api_token: hunter22"])
def test_what_is_called_nearly_so_is_one(line: str) -> None:
    assert find_secrets(line, name="a.yml")


@pytest.mark.parametrize("what", INNOCENT)
@pytest.mark.parametrize("name", ["", ".env", "x.yml", "x.py"])
def test_what_only_looks_like_one_is_none(what: str, name: str) -> None:
    assert find_secrets(INNOCENT[what], name=name) == {}


def test_where_files_of_an_image_are_looked_into() -> None:
    wanted = ["root/.aws/credentials", "app/x.txt", "etc/app/.env", "opt/keys/tls.key", "home/a/.ssh/id_rsa", ".netrc"]
    wanted += [
        "usr/src/app/.env",
        "usr/src/app/server.pem",
        "usr/share/x/.npmrc",
        "usr/lib/a/id_rsa",
        "opt/kbuild/.env",
    ]
    wanted += [f"opt/env/lib/python3.11/site-packages/{name}" for name in (".env", "a/.pypirc", "a/own.pem")]
    assert [each for each in wanted if not may_hold_secrets(each)] == []
    assert not any(wants_bytes(each, "opt/env") for each in wanted)  # none is held
    others = ["opt/env/lib/python3.11/ssl.py", "app/venv/lib/python3.11/x.py", "etc/ssl/certs/a.pem", "usr/share/x.key"]
    others += ["etc/passwd", "usr/src/app/main.py"]
    assert not any(map(may_hold_secrets, others))


def image(
    *members: LayerMember, config: dict[str, Any] | None = None, labels: dict[str, str] | None = None
) -> ImageFacts:
    digest = digest_bytes(b"")
    layer = ImageLayer(digest=digest, diff_id=digest, stated=digest, created_by="", members=members)
    described = Description(
        digest="sha256:0", subdir="linux-64", labels=labels or {}, config={"config": config or {}}, layers=(layer,)
    )
    return make_image_facts({}, described, prefix="opt/env", model_path="opt/model")


def test_what_a_package_published_is_no_secret_but_a_persons_own_file_is_one() -> None:
    site = "opt/env/lib/python3.11/site-packages"
    members = [
        LayerMember(path=f"{site}/{name}", kind="file", secrets=(("Private Key", 1),))
        for name in ("web/test.key", "shop/.env", "added.key")
    ]
    facts = replace(image(*members), brought=frozenset({f"{site}/web/test.key", f"{site}/shop/.env"}))
    assert found(Subject(reference="x", kind="image", image=facts)) == [f"/{site}/shop/.env", f"/{site}/added.key"]


def found(subject: Subject) -> list[str]:
    result = SecretCheck().run(subject)
    for each in result.findings:
        assert each.remedy.startswith("revoke") and not any(value.strip() in str(each) for value in SECRETS.values())
    return [each.where for each in result.findings]


def test_planted_secrets_are_found_wherever_they_travel(make_bundle: Any, make_lock: Any, make_entry: Any) -> None:
    token = SECRETS["GitHub Token"]
    clean = make_bundle(
        "clean", files={"artifacts/model.pkl": pickle.dumps(list(range(99))), "code/p/a.py": b"x = 1\n"}
    )
    subject = Subject(
        reference="x", kind="image", bundle=clean, lock=make_lock(make_entry("six", "1.17.0")), image=image(),
        parameters={"seed": "7", "alpha": "0.1"},
    )  # fmt: skip
    assert found(subject) == []
    files = {
        "code/p/a.py": f"K = '{token}'\n".encode(),
        "artifacts/m.pkl": pickle.dumps([token]),
        ".env": b"API_KEY=abc1234\n",
    }
    planted = replace(
        subject,
        bundle=make_bundle("planted", files=files),
        parameters={"password": "hunter22", "seed": "7"},
        lock=make_lock(make_entry("six", "1.17.0", note=token)),
        image=image(
            # Hidden by a layer above or not, who has the image has it.
            LayerMember(path="root/.aws/credentials", kind="file", secrets=(("AWS Access Key", 1),)),
            LayerMember(path="opt/keys/a.p12", kind="file", secrets=()),
            config={"Env": ["DB_PASSWORD=hunter22", "HOME=/tmp", f"X={token}"]},
            labels={"a": token, "io.kbuild.model.digest": "sha256:" + "0" * 64},
        ),
    )
    assert sorted(found(planted)) == sorted(
        [".env", "artifacts/m.pkl", "code/p/a.py", "parameter password", "conda-lock.yml", "/root/.aws/credentials",
         "/opt/keys/a.p12", "env DB_PASSWORD", "env X", "label a"]
    )  # fmt: skip

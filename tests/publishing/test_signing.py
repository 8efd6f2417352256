"""Signed hubs: what publishing signs, what verify and audit demand, and what becomes of every single change."""

import base64
import concurrent.futures
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import made
from tests.support.signing import building, made_up_build, publish, signer, trust, write_key
from tools.archive import reading
from tools.catalog import layout
from tools.hub import notes, records, signatures
from tools.hub.signatures import SignatureError, SigningError
from tools.hub.storage import Storage
from tools.publishing import attestations
from tools.publishing.attestations import Source
from tools.server.server import serve
from tools.verification.audit import audit
from tools.verification.verify import Verification

HANDLE, SIBLING = "hubpress/convnext_digits/1", "hubpress/convnext_digits_fe/1"
RECORD = f"{HANDLE}.json"
DATE = "2026-12-01T00:00:00Z"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A folder with two pairs of keys."""
    folder = tmp_path_factory.mktemp("keys")
    write_key(folder, "new")
    write_key(folder, "old")
    return folder


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    return made_up_build(tmp_path_factory.mktemp("build"))


@pytest.fixture(autouse=True)
def built(made_up):
    with building(made_up):
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def signed(tmp_path_factory, keys, made_up, cache):
    """A hub of two modules, signed with the new key; one is withdrawn."""
    folder = tmp_path_factory.mktemp("signed") / "hub"
    with building(made_up):
        results = publish(folder, signer(keys / "new.pem"), cache=cache, pages=False)
        assert [result.state for result in results] == ["published", "published"], results
        assert notes.add_note(Storage(folder), HANDLE, "yank", "wrong", date=DATE, signer=signer(keys / "new.pem"))
        publish(folder, signer(keys / "new.pem"), cache=cache)
    return folder


@pytest.fixture
def hub_folder(signed, tmp_path):
    shutil.copytree(signed, tmp_path / "hub")
    return tmp_path / "hub"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def verified(folder, trusted, handle=HANDLE):
    with Verification(replay=False, trust=trusted) as verification:
        (target,) = verification.find(f"{folder}/{handle}")
        return verification.verify(target)


def signature_check(folder, trusted, handle=HANDLE):
    return next(each for each in verified(folder, trusted, handle).checks if each.name == "signature")


def errors(folder, trusted, **options):
    return [str(each) for each in audit(Storage(folder), trust=trusted, **options).problems]


# What is signed


def test_everything_beside_a_record_is_there_and_signed(signed, keys):
    paths = set(tree(signed))
    for handle in (HANDLE, SIBLING):
        assert set(layout.attestation_paths(handle)) <= paths
    result = verified(signed, trust(keys / "new.pub"))
    fingerprint = next(iter(signatures.public_keys([keys / "new.pub"])))
    assert result.ok and result.note == "withdrawn: wrong"
    assert result.checks[1].message == f"signed by key {fingerprint}, as are 1 notes"
    report = audit(
        Storage(signed), thorough=True, catalog=made.rows(), base_url=made.URL, trust=trust(keys / "new.pub")
    )
    assert not report.problems and report.signed == 2 and report.are_signatures_checked


def test_records_and_archives_are_those_of_a_hub_without_signatures(signed, cache, tmp_path):
    publish(tmp_path / "plain", None, cache=cache)
    plain, with_signatures = tree(tmp_path / "plain"), tree(signed)
    assert not [path for path in plain if path.endswith((".sig", ".bundle", ".cdx.json", ".provenance.json"))]
    for handle in (HANDLE, SIBLING):
        assert plain[f"{handle}.tar.gz"] == with_signatures[f"{handle}.tar.gz"]
        ours, theirs = (json.loads(each[f"{handle}.json"]) for each in (plain, with_signatures))
        assert {**ours, "published": ""} == {**theirs, "published": ""}
    assert not audit(Storage(tmp_path / "plain"), thorough=True, catalog=made.rows(), base_url=made.URL).problems


@pytest.mark.slow
def test_the_stock_tool_verifies_the_unpacked_archive_and_the_record(signed, keys, tmp_path):
    with (signed / f"{HANDLE}.tar.gz").open("rb") as stream:
        reading.unpack(stream, tmp_path / "module")

    def stock(path, signature, key):
        command = [sys.executable, "-m", "model_signing", "verify", "key", str(path)]
        command += ["--signature", str(signed / signature), "--public_key", str(keys / key)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = stock(tmp_path / "module", f"{HANDLE}.bundle", "new.pub")
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stderr
    assert stock(signed / RECORD, f"{RECORD}.sig", "new.pub").returncode == 0
    assert stock(tmp_path / "module", f"{HANDLE}.bundle", "old.pub").returncode != 0
    file = tmp_path / "module/saved_model.pb"
    file.write_bytes(file.read_bytes() + b"?")
    assert stock(tmp_path / "module", f"{HANDLE}.bundle", "new.pub").returncode != 0


def test_two_signatures_of_the_same_bytes_differ_and_both_hold(keys):
    by = signer(keys / "new.pem")
    first, second = (by.sign(b"{}", name="1.json") for _ in range(2))
    assert first != second
    for each in (first, second):
        by.trust.check(b"{}", each, name="1.json")


def test_served_files_have_their_types(signed, keys):
    with serve(Storage(signed)) as url:
        for path in layout.attestation_paths(HANDLE):
            answer = requests.get(f"{url}/{path}", timeout=10)
            bundle = path.endswith((".sig", ".bundle"))
            expected = "application/vnd.dev.sigstore.bundle.v0.3+json" if bundle else "application/json"
            assert answer.headers["Content-Type"] == expected and answer.content == (signed / path).read_bytes()
        assert verified(url, trust(keys / "new.pub")).ok


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_larger_curves(tmp_path, curve):
    by = signer(write_key(tmp_path, "large", curve=curve))
    by.trust.check(b"{}", by.sign(b"{}", name="1.json"), name="1.json")


# Every single change


def changed(path, change):
    def spoil(folder):
        (folder / path).write_bytes(change((folder / path).read_bytes()))

    return spoil


def moved(source, target):
    def spoil(folder):
        shutil.copy(folder / source, folder / target)

    return spoil


def removed(path):
    return lambda folder: (folder / path).unlink()


def replaced_together(folder):
    """As somebody does who can write to the bucket: another archive, and a record that fits it."""
    archive = folder / f"{HANDLE}.tar.gz"
    shutil.copy(folder / f"{SIBLING}.tar.gz", archive)
    record, other = (json.loads((folder / f"{each}.json").read_text()) for each in (HANDLE, SIBLING))
    record["archive"] = {**other["archive"], "path": record["archive"]["path"]}
    (folder / RECORD).write_bytes(records.encode(record))


def another_note(folder):
    """An undo of the withdrawal, by somebody without a key."""
    notes.add_note(Storage(folder), HANDLE, "unyank", "", date=DATE)


SPOILT = {
    "one byte of the record": (
        changed(RECORD, lambda data: data.replace(b"ConvNeXt", b"ConvNexT", 1)),
        "signature",
        "is not one of",
    ),
    "one line end of the record": (
        changed(RECORD, lambda data: data.replace(b"\n", b"\r\n", 1)),
        "signature",
        "is not one of",
    ),
    "one byte of the archive": (changed(f"{HANDLE}.tar.gz", lambda data: data[:-1] + b"?"), "archive", "sha256"),
    "record and archive together": (replaced_together, "signature", "is not one of"),
    "signature of another module": (moved(f"{SIBLING}.json.sig", f"{RECORD}.sig"), "signature", "is not one of"),
    "signature of the unpacked tree": (moved(f"{HANDLE}.bundle", f"{RECORD}.sig"), "signature", "is not one of"),
    "no signature": (removed(f"{RECORD}.sig"), "signature", "unsigned"),
    "a note without signature": (removed(f"{HANDLE}.note-1.json.sig"), "signature", "1.note-1.json.sig"),
    "a new note without signature": (another_note, "signature", "1.note-2.json.sig"),
    "one byte of a note": (
        changed(f"{HANDLE}.note-1.json", lambda data: data.replace(b"wrong", b"right")),
        "signature",
        "1.note-1.json",
    ),
    "signature of another note": (moved(f"{RECORD}.sig", f"{HANDLE}.note-1.json.sig"), "signature", "1.note-1.json"),
    "no JSON": (changed(f"{RECORD}.sig", lambda data: b"?"), "signature", "no Sigstore bundle"),
    "nested JSON": (changed(f"{RECORD}.sig", lambda data: b"[" * 200_000), "signature", "no Sigstore bundle"),
    "JSON of another shape": (
        changed(f"{RECORD}.sig", lambda data: b'{"verificationMaterial": {"publicKey": 1}, "dsseEnvelope": {}}'),
        "signature",
        "no Sigstore bundle",
    ),
    "an envelope of another shape": (
        changed(
            f"{RECORD}.sig", lambda data: json.dumps({**json.loads(data), "dsseEnvelope": {"payload": 1}}).encode()
        ),
        "signature",
        "is not one of",
    ),
    "no signatures in the envelope": (
        changed(
            f"{RECORD}.sig",
            lambda data: json.dumps(
                {**json.loads(data), "dsseEnvelope": {**json.loads(data)["dsseEnvelope"], "signatures": []}}
            ).encode(),
        ),
        "signature",
        "is not one of",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_verify_finds_every_change(hub_folder, keys, case):
    spoil, name, says = SPOILT[case]
    spoil(hub_folder)
    result = verified(hub_folder, trust(keys / "new.pub"))
    (failed,) = [check for check in result.checks if check.state == "failed"]
    assert (failed.name, says in failed.message) == (name, True), failed
    if name == "signature":  # of what nobody vouches for nothing is downloaded
        assert [check.state for check in result.checks[2:]] == ["skipped"] * 4
    assert verified(hub_folder, trust(keys / "new.pub"), SIBLING).ok


BESIDE = {
    "bill of materials": (
        changed(f"{HANDLE}.cdx.json", lambda data: data.replace(b"ConvNeXt", b"ConvNexT", 1)),
        f"{HANDLE}.cdx.json.sig",
    ),
    "provenance": (changed(f"{HANDLE}.provenance.json", lambda data: data + b" "), f"{HANDLE}.provenance.json.sig"),
    "no bill of materials": (removed(f"{HANDLE}.cdx.json"), f"{HANDLE}.cdx.json"),
    "no signature of the provenance": (removed(f"{HANDLE}.provenance.json.sig"), f"{HANDLE}.provenance.json"),
    "no bundle": (removed(f"{HANDLE}.bundle"), f"{HANDLE}.bundle"),
    "bundle of another module": (moved(f"{SIBLING}.bundle", f"{HANDLE}.bundle"), f"{HANDLE}.bundle"),
}


@pytest.mark.parametrize("case", [case for case in SPOILT if "archive" not in case or "record" in case] + list(BESIDE))
def test_audit_finds_every_change(hub_folder, keys, case):
    if case in BESIDE:
        spoil, says = BESIDE[case]
    else:
        spoil, says = SPOILT[case][0], HANDLE
    spoil(hub_folder)
    found = errors(hub_folder, trust(keys / "new.pub"), thorough=case == "bundle of another module")
    assert any(says in each for each in found) and not any(SIBLING in each for each in found), found


@pytest.mark.parametrize(
    ("path", "file"),
    [
        (f"{HANDLE}.bundle", f"{HANDLE}.bundle"),
        (f"{HANDLE}.cdx.json.sig",) * 2,
        (f"{HANDLE}.note-1.json", f"{HANDLE}.note-1.json.sig"),
    ],
)
def test_audit_without_a_key_names_what_a_publisher_left_half_done(hub_folder, path, file):
    (hub_folder / path).unlink()
    found = audit(Storage(hub_folder)).problems
    assert file in [each.file for each in found]
    assert not [each for each in found if each.file == file and each.is_error]


def test_signing_in_every_kind_of_storage(storage, keys):
    by = signer(keys / "new.pem")
    storage.create("p/n/1.json", b"{}")
    assert signatures.sign(storage, "p/n/1.json", b"{}", by) is True
    first = storage.read("p/n/1.json.sig")
    assert signatures.sign(storage, "p/n/1.json", b"{}", by) is False and storage.read("p/n/1.json.sig") == first
    with pytest.raises(SignatureError, match="other bytes"):
        signatures.sign(storage, "p/n/1.json", b"[]", by)


def test_a_note_about_another_module_does_not_count(hub_folder, keys):
    """A signed undo of another module's withdrawal, copied with its signature."""
    storage, by = Storage(hub_folder), signer(keys / "new.pem")
    notes.add_note(storage, SIBLING, "yank", "bad", date=DATE, signer=by)
    notes.add_note(storage, SIBLING, "unyank", "", date=DATE, signer=by)
    for end in ("", ".sig"):
        shutil.copy(hub_folder / f"{SIBLING}.note-2.json{end}", hub_folder / f"{HANDLE}.note-2.json{end}")
    result = verified(hub_folder, trust(keys / "new.pub"))
    assert result.note == "withdrawn: wrong"
    assert not result.ok and SIBLING in next(check.message for check in result.checks if check.state == "failed")


def test_unsigned_hubs_stay_valid_and_are_called_unsigned(cache, tmp_path, keys, signed):
    publish(tmp_path / "plain", None, cache=cache)
    assert verified(tmp_path / "plain", None).ok and signature_check(tmp_path / "plain", None).message == "unsigned"
    found = signature_check(tmp_path / "plain", trust(keys / "new.pub"))
    assert found.state == "failed" and found.message.startswith("unsigned: nothing lies at")
    assert "unsigned" in " ".join(errors(tmp_path / "plain", trust(keys / "new.pub")))
    asked = signature_check(signed, None)
    assert asked.state == "skipped" and asked.message.startswith("signed, not checked: give --key")


def test_an_archive_alone_is_unsigned(signed, keys, tmp_path):
    shutil.copy(signed / f"{HANDLE}.tar.gz", tmp_path / "1.tar.gz")
    with Verification(replay=False, trust=trust(keys / "new.pub")) as verification:
        (target,) = verification.find(str(tmp_path / "1.tar.gz"))
        result = verification.verify(target)
    assert not result.ok and "unsigned" in result.checks[1].message


# Keys


def test_a_wrong_key_and_a_list_of_keys(signed, keys, tmp_path):
    found = signature_check(signed, trust(keys / "old.pub"))
    assert found.state == "failed" and "none of those given" in found.message
    several = tmp_path / "several.pub"
    several.write_bytes((keys / "old.pub").read_bytes() + b"\n" + (keys / "new.pub").read_bytes())
    only_public = tmp_path / "folder"
    only_public.mkdir()
    for name in ("old.pub", "new.pub"):
        shutil.copy(keys / name, only_public / name)
    for chosen in (trust(several), trust(only_public), trust(keys / "old.pub", keys / "new.pub")):
        assert len(chosen.keys) == 2 and signature_check(signed, chosen).state == "ok"


def test_a_key_that_claims_to_be_another(hub_folder, keys):
    """A signature by one key, under the name of the trusted one."""
    file = hub_folder / f"{RECORD}.sig"
    forged = json.loads(signer(keys / "old.pem").sign((hub_folder / RECORD).read_bytes(), name="1.json"))
    forged["verificationMaterial"] = json.loads(file.read_bytes())["verificationMaterial"]
    file.write_text(json.dumps(forged))
    assert signature_check(hub_folder, trust(keys / "new.pub")).state == "failed"
    assert signature_check(hub_folder, trust(keys / "old.pub")).state == "failed"


def test_after_a_change_of_keys_the_old_signatures_hold(cache, tmp_path, keys, signed):
    """Published with the old key: the new one signs what is new, and accepts the old as long as it is named."""
    folder = tmp_path / "hub"
    publish(folder, signer(keys / "old.pem"), cache=cache)
    before = tree(folder)
    without = publish(folder, signer(keys / "new.pem"), cache=cache)
    assert {result.state for result in without} == {"failed"} and "--key" in without[0].reason
    named = publish(folder, signer(keys / "new.pem", keys / "old.pub"), cache=cache)
    assert {result.state for result in named} == {"unchanged"} and tree(folder) == before
    assert notes.add_note(Storage(folder), HANDLE, "yank", "bad", date=DATE, signer=signer(keys / "new.pem"))
    assert not verified(folder, trust(keys / "new.pub")).ok and not verified(folder, trust(keys / "old.pub")).ok
    assert verified(folder, trust(keys / "new.pub", keys / "old.pub")).ok
    assert not errors(folder, trust(keys / "new.pub", keys / "old.pub"))[1:]  # but for the page of the withdrawal


def bad_keys(folder):
    write_key(folder, "good")
    write_key(folder, "locked", password=b"secret")
    (folder / "text.pub").write_text("no key")
    (folder / "empty").mkdir()
    rsa = ["openssl", "genrsa", "-out", str(folder / "rsa.pem"), "2048"]
    subprocess.run(rsa, check=True, capture_output=True)
    public = ["openssl", "rsa", "-in", str(folder / "rsa.pem"), "-pubout", "-out", str(folder / "rsa.pub")]
    subprocess.run(public, check=True, capture_output=True)
    write_key(folder, "curve", curve=ec.SECP256K1())


def test_keys_that_cannot_be_used_are_named_with_a_fix(tmp_path, monkeypatch):
    bad_keys(tmp_path)
    for name, says in {
        "missing.pem": "cannot be read",
        "text.pub": "cannot be used",
        "good.pub": "cannot be used",
        "locked.pem": signatures.PASSWORD_VARIABLE,
        "rsa.pem": "elliptic curve",
        "curve.pem": "secp256k1",
    }.items():
        with pytest.raises(SigningError) as found:
            signatures.Signer(tmp_path / name)
        assert str(tmp_path / name) in str(found.value) and "Fix: " in str(found.value) and says in str(found.value)
    for name, says in {
        "missing.pub": "read",
        "text.pub": "no public key",
        "good.pem": "private",
        "empty": "no key",
        "rsa.pub": "curve",
    }.items():
        with pytest.raises(SigningError) as found:
            trust(tmp_path / name)
        assert says in str(found.value) and "Fix: " in str(found.value)
    monkeypatch.setenv(signatures.PASSWORD_VARIABLE, "wrong")
    with pytest.raises(SigningError):
        signatures.Signer(tmp_path / "locked.pem")
    monkeypatch.setenv(signatures.PASSWORD_VARIABLE, "secret")
    by = signatures.Signer(tmp_path / "locked.pem")
    by.trust.check(b"{}", by.sign(b"{}", name="1.json"), name="1.json")


# Publishers that are cut off, race, or meet what they did not write


def killed_at(number, folder, by, cache):
    """Publish in a child that is killed before it creates its object `number`; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            count, real = 0, Storage.create

            def create(self, *arguments, **keywords):
                nonlocal count
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(self, *arguments, **keywords)

            Storage.create = create
            publish(folder, by, cache=cache, pages=False, modules=made.digits()[:1])
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_every_moment_the_same_command_adds_what_is_missing(cache, tmp_path, keys):
    by, trusted = signer(keys / "new.pem"), trust(keys / "new.pub")
    states = []
    for number in range(1, 100):
        folder = tmp_path / f"hub-{number}"
        if not killed_at(number, folder, by, cache):
            break
        if (folder / RECORD).exists():
            with Verification(replay=False, trust=trusted) as verification:
                result = verification.verify(*verification.find(f"{folder}/{HANDLE}"))
            check = result.checks[1]
            states.append(check.message.partition(":")[0] if check.state == "failed" else check.state)
        publish(folder, by, cache=cache, pages=False, modules=made.digits()[:1])
        found = audit(Storage(folder), trust=trusted, thorough=True).errors
        assert [each.file for each in found] == [], number  # there are no pages, which is no error
    # an archive, a record, and six files beside it
    assert number == 1 + 1 + 6 + 1 and set(states) == {"unsigned", "ok"}


def test_two_publishers_race_to_sign(cache, tmp_path, keys):
    by, other = signer(keys / "new.pem", keys / "old.pub"), signer(keys / "old.pem", keys / "new.pub")
    folder = tmp_path / "hub"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda each: publish(folder, each, cache=cache, pages=False), [by, other, by, other]))
    assert "failed" not in {result.state for run in runs for result in run}, runs
    publish(folder, by, cache=cache)
    assert not errors(folder, trust(keys / "new.pub", keys / "old.pub"), thorough=True)


def test_a_rival_signs_between_the_look_and_the_creation(tmp_path, keys):
    by, rival = signer(keys / "new.pem", keys / "old.pub"), signer(keys / "old.pem")
    storage = Storage(tmp_path)
    storage.create("p/n/1.json", b"{}")

    class Quick(Storage):
        def create(self, path, source, **keywords):
            storage.create(path, rival.sign(b"{}", name="1.json"))
            super().create(path, source, **keywords)

    assert signatures.sign(Quick(tmp_path), "p/n/1.json", b"{}", by) is False
    with pytest.raises(SignatureError, match="none of those given"):
        signatures.sign(storage, "p/n/1.json", b"{}", signer(keys / "new.pem"))


@pytest.mark.parametrize(
    "spoil",
    [replaced_together, changed(RECORD, lambda data: data.replace(b'"value": 98.61', b'"value": 99.99'))],
    ids=["archive", "figure"],
)
def test_publishing_again_does_not_sign_what_another_wrote(cache, tmp_path, keys, spoil):
    folder = tmp_path / "hub"
    publish(folder, None, cache=cache)
    spoil(folder)
    results = {result.module.handle: result for result in publish(folder, signer(keys / "new.pem"), cache=cache)}
    assert results[HANDLE].state == "failed" and "Fix: " in results[HANDLE].reason
    assert not (folder / f"{RECORD}.sig").exists()


def test_an_unsigned_hub_is_signed_later(cache, tmp_path, keys):
    folder = tmp_path / "hub"
    publish(folder, None, cache=cache)
    before = tree(folder)
    results = publish(folder, signer(keys / "new.pem"), cache=cache)
    assert {result.state for result in results} == {"unchanged"}
    assert not errors(folder, trust(keys / "new.pub"), thorough=True)
    assert all(
        tree(folder)[path] == before[path] for path in before if path.endswith((".json", ".gz")) and HANDLE in path
    )


@pytest.mark.parametrize("path", [f"{RECORD}.sig", f"{HANDLE}.bundle", f"{HANDLE}.cdx.json.sig"])
def test_a_foreign_file_in_the_place_of_a_signature_is_refused(hub_folder, cache, keys, path):
    (hub_folder / path).write_text("{}")
    if path.endswith(".bundle"):
        (hub_folder / f"{RECORD}.sig").unlink()  # a bundle is looked at where anything is signed
    results = publish(hub_folder, signer(keys / "new.pem"), cache=cache, pages=False)
    assert [result.state for result in results] == ["failed", "unchanged"] and "Fix: " in results[0].reason


def test_a_note_that_was_cut_off_is_signed_by_the_same_command(hub_folder, keys):
    storage, by = Storage(hub_folder), signer(keys / "new.pem")
    (hub_folder / f"{HANDLE}.note-1.json.sig").unlink()
    assert notes.add_note(storage, HANDLE, "yank", "wrong", date="2027-01-01T00:00:00Z", signer=by) is None
    assert signature_check(hub_folder, trust(keys / "new.pub")).state == "ok"


# Bill of materials, provenance


def bom(signed, handle=HANDLE):
    return (signed / f"{handle}.cdx.json").read_text()


@pytest.mark.parametrize("handle", [HANDLE, SIBLING])
def test_the_bill_of_materials_is_valid(signed, handle):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = bom(signed, handle)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    said, record = json.loads(text), json.loads((signed / f"{handle}.json").read_text())
    component = said["metadata"]["component"]
    assert component["type"] == "machine-learning-model" and component["name"] == record["name"]
    assert {"alg": "SHA-256", "content": record["archive"]["sha256"]} in component["hashes"]
    assert said["components"][0]["hashes"][0]["content"] == record["checkpoint"]["sha256"]
    assert ("quantitativeAnalysis" in component["modelCard"]) == (handle == HANDLE)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace("machine-learning-model", "model"))


@pytest.mark.slow
def test_the_bill_of_materials_of_every_row_is_valid():
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for module in made.each_family():
        text = json.dumps(attestations.bom(made.record(module)))
        assert validator.validate_str(text) is None, module.handle


def test_the_provenance_is_a_statement_of_in_toto_with_slsa_provenance(signed):
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2

    said = json.loads((signed / f"{HANDLE}.provenance.json").read_text())
    statement = json_format.ParseDict(said, statement_pb2.Statement())  # refuses fields that there are not
    json_format.ParseDict(said["predicate"], provenance_pb2.Provenance())
    assert statement.type == "https://in-toto.io/Statement/v1"
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    record = json.loads((signed / RECORD).read_text())
    assert said["subject"][0] == {"name": f"{HANDLE}.tar.gz", "digest": {"sha256": record["archive"]["sha256"]}}
    definition = said["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["row"] == record["row"]
    found = {each["name"]: each["digest"] for each in definition["resolvedDependencies"]}
    assert found["checkpoint"] == {"sha256": record["checkpoint"]["sha256"]}
    assert len(found["requirements.lock"]["sha256"]) == 64
    assert said["predicate"]["runDetails"]["builder"]["id"]
    source = Source(commit="1" * 40, is_changed=True, lock_sha256=None)
    dependencies = attestations.provenance(record, source)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert dependencies[1]["digest"] == {"gitCommit": "1" * 40} and len(dependencies) == 2


def test_the_commit_of_a_checkout(tmp_path):
    assert attestations.source_of(tmp_path) == Source(None, False, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "requirements.lock").write_text("a==1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = attestations.source_of(tmp_path)
    assert len(clean.commit) == 40 and not clean.is_changed and len(clean.lock_sha256) == 64
    (tmp_path / "requirements.lock").write_text("a==2\n")
    assert attestations.source_of(tmp_path).is_changed


# Pages, commands


def test_the_page_says_who_signed_as_a_claim_and_how_to_check(signed, hub_folder, cache, keys):
    page = (signed / f"{HANDLE}/index.html").read_text()
    fingerprint = next(iter(signatures.public_keys([keys / "new.pub"])))
    assert fingerprint in page and "has not checked" in page and "publisher.pub" in page
    assert "1.bundle" in page
    for path in layout.attestation_paths(HANDLE):
        (hub_folder / path).unlink()
    publish(hub_folder, None, cache=cache)  # the page cache knows what the page was made from
    assert fingerprint not in (hub_folder / f"{HANDLE}/index.html").read_text()
    assert fingerprint in (hub_folder / f"{SIBLING}/index.html").read_text()


def test_a_malformed_signature_is_named_and_the_pages_are_made(hub_folder, cache):
    (hub_folder / f"{RECORD}.sig").write_text("[")
    with pytest.raises(records.DamagedHub, match=r"1\.json\.sig"):
        publish(hub_folder, None, cache=cache)
    assert any(f"{RECORD}.sig" in each for each in errors(hub_folder, None))


def certificate(identity, issuer):
    """A certificate as Sigstore issues them, in DER."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime(2026, 1, 1)
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), b"\x0c" + bytes([len(issuer)]) + issuer.encode()
    )
    made_certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
        .add_extension(extension, critical=False)
        .sign(key, hashes.SHA256())
    )
    return made_certificate.public_bytes(serialization.Encoding.DER)


def sigstore_bundle(data):
    return {"verificationMaterial": {"certificate": {"rawBytes": base64.b64encode(data).decode()}}, "dsseEnvelope": {}}


def test_who_signed_through_sigstore_is_read_from_the_certificate(hub_folder, cache, keys, monkeypatch):
    bundle = sigstore_bundle(certificate("<b>@example.org", "https://accounts.example.org"))
    assert signatures.claim_of(bundle) == {"identity": "<b>@example.org", "issuer": "https://accounts.example.org"}
    assert signatures.claim_of(sigstore_bundle(b"?")) == {"identity": "", "issuer": ""}
    (hub_folder / f"{RECORD}.sig").write_text(json.dumps(bundle))
    publish(hub_folder, None, cache=cache)
    page = (hub_folder / f"{HANDLE}/index.html").read_text()
    assert "&lt;b&gt;@example.org" in page and "--identity" in page
    found = signature_check(hub_folder, trust(keys / "new.pub"))
    assert found.state == "failed" and "give --identity and --issuer" in found.message
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody answers
    found = signature_check(
        hub_folder, signatures.Trust(identity="a@example.org", issuer="https://accounts.example.org")
    )
    assert found.state == "failed" and "Sigstore cannot be used here" in found.message


def test_without_the_package_a_command_says_what_to_install(signed, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for name in ("signing", "verifying"):
        monkeypatch.setitem(sys.modules, f"model_signing.{name}", None)
    with pytest.raises(SigningError, match="pip install"):
        signatures.Signer(keys / "new.pem")
    assert signature_check(signed, None).message.startswith("signed, not checked")


COMMANDS = {
    "sign through Sigstore, without a network": (
        ("publish", "convnext_digits", "--hub", "{tmp}/new", "--sign-sigstore"),
        2,
        "Sigstore cannot be used here",
    ),
    "both ways to sign": (
        ("yank", HANDLE, "--hub", "{tmp}/new", "--undo", "--sign-sigstore", "--sign-key", "x"),
        2,
        "not allowed with",
    ),
    "verify": (("verify", "{hub}", "--no-replay", "--all", "--key", "{keys}/new.pub"), 0, "2 verified, nothing wrong"),
    "verify with another key": (
        ("verify", "{hub}", "--no-replay", "--all", "--key", "{keys}/old.pub"),
        1,
        "none of those given",
    ),
    "a key is missing": (("verify", "{hub}", "--key", "nowhere.pub"), 2, "nowhere.pub: the key cannot be read"),
    "an identity alone": (("verify", "{hub}", "--identity", "a@example.org"), 2, "--identity and --issuer go together"),
    "audit": (("audit", "--hub", "{hub}", "--key", "{keys}/new.pub"), 0, "2 modules signed, checked"),
    "audit with another key": (("audit", "--hub", "{hub}", "--key", "{keys}/old.pub"), 1, "none of those given"),
    "audit without a key": (("audit", "--hub", "{hub}"), 0, "2 modules signed, not checked: give --key"),
    "publish without the key": (
        ("publish", "convnext_digits", "--hub", "{tmp}/new", "--sign-key", "nowhere.pem"),
        2,
        "nowhere.pem: the key cannot be read",
    ),
    "trust without a key to sign": (
        ("publish", "convnext_digits", "--hub", "{tmp}/new", "--key", "{keys}/new.pub"),
        2,
        "add --sign-key",
    ),
    "yank without the key": (("yank", HANDLE, "--hub", "{tmp}/new", "--why", "x", "--sign-key", "nowhere.pem"), 2, ""),
    "yank": (
        ("yank", HANDLE, "--hub", "{copy}", "--why", "worse", "--url", made.URL, "--sign-key", "{keys}/new.pem"),
        0,
        "is yanked",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(signed, hub_folder, keys, tmp_path, capsys, monkeypatch, case):
    arguments, status, says = COMMANDS[case]
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody answers
    script, *rest = (each.format(hub=signed, keys=keys, tmp=tmp_path, copy=hub_folder) for each in arguments)
    try:
        returned = importlib.import_module(f"tools.{script}").main(rest)
    except SystemExit as done:
        returned = done.code
    said = "".join(capsys.readouterr())
    assert returned == status and says in " ".join(said.split()), said
    assert not (tmp_path / "new").exists()
    if case == "yank":
        assert verified(hub_folder, trust(keys / "new.pub")).note == "withdrawn: worse"

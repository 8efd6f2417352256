"""Keys, and publishing with a made-up build, for tests of signatures: no model is built."""

import contextlib
from pathlib import Path
from unittest import mock

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import made
from tools.catalog.checkpoints import fetch_checkpoint
from tools.hub import signatures
from tools.hub.storage import Storage
from tools.publishing import build
from tools.publishing.build import Build
from tools.publishing.specification import specify
from tools.publishing.transaction import Publishing


def write_key(folder: Path, name: str, *, password: bytes | None = None, curve=None) -> Path:
    """Write NAME.pem, private, and NAME.pub in a folder; returns the private key's file."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, hidden))
    shown = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, shown))
    return private


def signer(private: Path, *others: Path) -> signatures.Signer:
    """The signer with a private key that accepts signatures by other public keys, too."""
    return signatures.Signer(private, signatures.Trust(signatures.public_keys(others)))


def trust(*public: Path) -> signatures.Trust:
    return signatures.Trust(signatures.public_keys(public))


def made_up_build(folder: Path) -> Build:
    """A build of both heads of the small ConvNeXt, with graphs that mean nothing."""
    variant, rows = made.digits()[0].variant, made.rows()
    spec = specify(variant, rows, fetch_checkpoint(variant, rows, cache=folder))
    packed, built, checked = {}, {}, {}
    for module in made.digits():
        head = module.head
        model = made.saved_model(folder / f"model-{head}", module, inside={**made.plain(spec["module"]), "head": head})
        packed[head] = made.pack(model, folder / f"{head}.tar.gz")
        built[head] = {
            "signature": made.signature(module),
            "parameters": 186_554,
            "trainable_parameters": 186_554,
            "multiply_adds": 2_123_456,
            "taken": {},
        }
        checked[head] = {
            "golden_tolerance": 1e-4,
            "keras_difference": 1.2e-7,
            "sizes": ["1x1", "4000x3000"],
            "fine_tuned": module.variant.fine_tunable,
            "top1": {"value": 98.61, "correct": 355, "images": 360} if head == "classifier" else None,
        }
    return Build(folder, {"built": built, "checked": checked, "packed": packed})


@contextlib.contextmanager
def building(made_up: Build):
    """A context in which every build is this one."""
    with mock.patch.object(build, "get_or_make", return_value=made_up):
        yield


def publish(hub: Path | Storage, by: signatures.Signer | None, *, cache: Path, pages: bool = True, modules=None):
    """Publish both modules, or some, within `building`; returns their results."""
    storage = hub if isinstance(hub, Storage) else Storage(hub)
    publishing = Publishing(made.rows(), storage, base_url=made.URL, cache=cache, signer=by)
    results = publishing.run(modules or made.digits())
    if pages:
        publishing.write_pages()
    return results

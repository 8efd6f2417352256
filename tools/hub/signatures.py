"""Signatures beside records and notes, made and checked by OpenSSF's model-signing.

    signing = signer(options)                                     # of --sign-key or --sign-sigstore; None without either
    sign(storage, "publisher/name/1.json", data, signing)         # creates publisher/name/1.json.sig
    trusted = trust(options)                                      # of --key or --identity; None without either
    trusted.check(data, signature, name="1.json")                 # raises SignatureError

A signature is a Sigstore bundle, which `model_signing verify` reads as well. It names the key that it claims to be made with, and
holds no key: which keys to trust is told by whoever checks, never by the hub. model-signing is imported only where something
is signed or checked, because it takes a second and is an extra.
"""

import argparse
import contextlib
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from tools.catalog import layout
from tools.common import json_text
from tools.common.printable import printable
from tools.common.problems import UsageError, with_fix
from tools.common.scripts import PASSWORD_VARIABLE
from tools.hub.storage import AlreadyThere, NotThere, Storage, StorageError

MAX_BYTES = 1 << 20  # of a signature: 3 kB for a file, 200 bytes more for each member of a tree
INSTALL = 'pip install "hubpress[sign]", or model-signing and pyopenssl'
_PUBLIC_KEY = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)
_FINGERPRINT = re.compile("[0-9a-f]{64}")
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # what model-signing takes
_ISSUER_OIDS = (
    "1.3.6.1.4.1.57264.1.8",
    "1.3.6.1.4.1.57264.1.1",
)  # Fulcio's extensions of a certificate, the newer first


class SigningError(UsageError, StorageError):
    """Nothing can be signed or checked with what was given: a key, a package or the internet is missing."""


class SignatureError(StorageError):
    """A signature is missing, or is not one of the bytes by somebody who is trusted; the message ends with the fix."""


class Claim(TypedDict, total=False):
    """Who a signature says that it is from, which nobody has checked: a key by its fingerprint, or an identity and its issuer."""

    key: str
    identity: str
    issuer: str


@dataclass(frozen=True)
class Trust:
    """Whose signatures count.

    `keys` are public keys in PEM by fingerprint, the SHA-256 of that PEM; `identity` with `issuer` is Sigstore's.
    """

    keys: Mapping[str, bytes] = field(default_factory=dict)
    identity: str | None = None
    issuer: str | None = None

    def check(self, content: bytes | Path, signature: bytes, *, name: str) -> str:
        """Return who signed `content`, the bytes of a file or a folder of files, which messages call `name`.

        Raises:
          SignatureError: the signature is not of this content, or not by anybody who is trusted.
          SigningError: model-signing is not installed, or Sigstore's keys cannot be fetched.
        """
        found = claim(signature, name=name)
        with _as_path(content, name) as path, tempfile.TemporaryDirectory(prefix="hubpress-signature-") as folder:
            file = Path(folder) / "signature"
            file.write_bytes(signature)
            verifier = self._verifier(found, name, Path(folder) / "key.pub")
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # a library that warns there
                    verifier.verify(path, file)
            except Exception as error:  # whatever a foreign file brings a library to raise
                reason = " ".join(str(error).split()) or type(error).__name__
                message = (
                    f"{name}: its signature ({described(found)}) is not one of what lies there: {printable(reason)}"
                )
                raise SignatureError(with_fix(message, "do not use it, and tell the hub's owner")) from error
        return described(found)

    def _verifier(self, found: Claim, name: str, key_file: Path) -> Any:
        """Return model-signing's verifier for whom a signature claims to be from, if that is somebody who is trusted."""
        config = _model_signing("verifying").Config()
        if "key" in found:
            if found["key"] not in self.keys:
                known = ", ".join(sorted(key[:16] for key in self.keys)) or "none"
                message = f"{name}: it is signed with the key {found['key']}, which is none of those given ({known})"
                raise SignatureError(with_fix(message, "give the public key with --key if you trust it"))
            key_file.write_bytes(self.keys[found["key"]])
            return config.use_elliptic_key_verifier(public_key=key_file)
        if self.identity is None or self.issuer is None:
            message = f"{name}: it is signed through Sigstore ({described(found)})"
            raise SignatureError(with_fix(message, "give --identity and --issuer if you trust them"))
        try:
            return config.use_sigstore_verifier(identity=self.identity, oidc_issuer=self.issuer)
        except Exception as error:
            raise _unreachable(error) from error


class Signer:
    """Signs files and folders with a local key, or through Sigstore; `trust` says which signatures count that are there already.

    Raises:
      SigningError: the key cannot be used, or model-signing is not installed.
    """

    def __init__(self, key: Path | None, trust: Trust | None = None):
        self._key, self._password = key, None
        trust = trust or Trust()
        config = _model_signing("signing").Config
        if key is None:
            try:
                self._config = config().use_sigstore_signer(use_ambient_credentials=True)
            except Exception as error:
                raise _unreachable(error) from error
            self.trust = trust
            return
        self._password = os.environ.get(PASSWORD_VARIABLE, "").encode() or None
        own = _public_half(key, self._password)
        self._config = config().use_elliptic_key_signer(private_key=key, password=self._password)
        self.trust = Trust({**trust.keys, _fingerprint(own): own}, trust.identity, trust.issuer)

    def sign(self, content: bytes | Path, *, name: str) -> bytes:
        """Return a signature of the bytes of a file, or of a folder of files; another call gives another one."""
        with _as_path(content, name) as path, tempfile.TemporaryDirectory(prefix="hubpress-signature-") as folder:
            file = Path(folder) / "signature"
            try:
                self._config.sign(path, file)
            except Exception as error:
                if self._key is None:
                    raise _unreachable(error) from error
                raise
            return file.read_bytes()


def signer(options: argparse.Namespace) -> Signer | None:
    """Return what signs, as `scripts.add_signing` was answered, or None if nothing is to be signed."""
    given = trust(options)
    if options.sign_key is None and not options.sign_sigstore:
        if given is not None:
            raise SigningError(with_fix("--key and --identity say which signatures count", "add --sign-key FILE"))
        return None
    return Signer(options.sign_key, given)


def trust(options: argparse.Namespace) -> Trust | None:
    """Return whose signatures count, as `scripts.add_trust` was answered, or None if nobody was named."""
    if bool(options.identity) != bool(options.issuer):
        raise SigningError(with_fix("--identity and --issuer go together", "give both, or neither"))
    if not options.key and not options.identity:
        return None
    _model_signing("verifying")  # before anything is fetched
    return Trust(public_keys(options.key), options.identity, options.issuer)


def public_keys(places: Iterable[Path]) -> dict[str, bytes]:
    """Return the public keys of files and folders, by fingerprint, in PEM.

    Raises:
      SigningError: there is none, or one that cannot be used.
    """
    found: dict[str, bytes] = {}
    for place in places:
        files = [place]
        if place.is_dir():
            files = sorted(file for file in place.iterdir() if file.suffix in (".pub", ".pem") and file.is_file())
            if not files:
                raise SigningError(with_fix(f"{place}: no key lies there, in *.pub or *.pem", "put public keys there"))
        for file in files:
            found |= _public_keys_of(file)
    return found


def sign(storage: Storage, path: str, data: bytes, by: Signer) -> bool:
    """Create the signature of the object at `path`, which holds `data`, unless one that counts is there; returns whether it was.

    Raises:
      SignatureError: another signature lies there, or something else than `data` at `path`.
    """
    if storage.read(path) != data:
        message = f"{storage.url_for(path)} holds other bytes than were written: it is not signed"
        raise SignatureError(with_fix(message, "restore it from a copy; what is published is never changed"))
    return create_signature(storage, layout.signature_path(path), data, by, name=path.rpartition("/")[2])


def create_signature(storage: Storage, path: str, content: bytes | Path, by: Signer, *, name: str) -> bool:
    """Create the signature of `content` at `path`, unless one that counts is there; returns whether it was created.

    Raises:
      SignatureError: a signature lies there that is of something else, or by somebody else.
    """
    try:
        existing = storage.read(path)
    except NotThere:
        try:
            storage.create(path, by.sign(content, name=name))
            return True
        except AlreadyThere:  # another publisher was quicker
            existing = storage.read(path)
    by.trust.check(content, existing, name=storage.url_for(path))
    return False


def claim(signature: bytes, *, name: str) -> Claim:
    """Return who a signature says that it is from; nothing of it is checked.

    Raises:
      SignatureError: it is no signature.
    """
    try:
        found = claim_of(json_text.parse_object(signature, max_bytes=MAX_BYTES))
    except json_text.JsonError as error:
        found, why = None, f": {error}"
    else:
        why = ""
    if found is None:
        message = f"{name}: its signature is no Sigstore bundle that names a key or has a certificate{why}"
        raise SignatureError(with_fix(message, "do not use it, and tell the hub's owner"))
    return found


def claim_of(bundle: Mapping[str, Any]) -> Claim | None:
    """Return who a bundle, as JSON has it, says that it is from; None if it is no bundle."""
    material = bundle.get("verificationMaterial")
    if not isinstance(material, dict) or not isinstance(bundle.get("dsseEnvelope"), dict):
        return None
    key, certificate = material.get("publicKey"), material.get("certificate")
    if isinstance(key, dict):
        hint = key.get("hint")
        return Claim(key=hint) if isinstance(hint, str) and _FINGERPRINT.fullmatch(hint) else None
    if isinstance(certificate, dict) and isinstance(certificate.get("rawBytes"), str):
        return _claim_of_certificate(certificate["rawBytes"])
    return None


def described(found: Claim) -> str:
    """Return a claim in words, for messages."""
    if "key" in found:
        return f"key {found['key']}"
    return printable(f"{found['identity'] or 'an identity'}, {found['issuer'] or 'an issuer'} says")


# Inside

_MAKE_KEY = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out FILE` (docs/signing.md)"


def _claim_of_certificate(encoded: str) -> Claim | None:
    """Return the identity that a certificate of Sigstore names; empty texts where nothing here can read it."""
    import base64

    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    identity = issuer = ""
    with contextlib.suppress(Exception):  # whatever is wrong with it: who checks will say so
        from cryptography import x509

        certificate = x509.load_der_x509_certificate(data)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identity = str(next(iter(names)).value)[:255]
        values = {each.oid.dotted_string: each.value for each in certificate.extensions}
        raw = next(getattr(values[oid], "value", b"") for oid in _ISSUER_OIDS if oid in values)
        issuer = raw[raw.find(b"http") :].decode("ascii")[:255]  # one of the two is wrapped as DER text
    return Claim(identity=identity, issuer=issuer)


def _model_signing(module: str) -> Any:
    """Return a module of model-signing."""
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        message = f"signatures need a package that is not installed: {error}"
        raise SigningError(with_fix(message, INSTALL)) from error


def _unreachable(error: Exception) -> SigningError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    message = f"Sigstore cannot be used here ({type(error).__name__}: {printable(reason)})"
    return SigningError(with_fix(message, "use a network that reaches sigstore.dev, or a local key: --sign-key, --key"))


@contextlib.contextmanager
def _as_path(content: bytes | Path, name: str) -> Iterator[Path]:
    """Give a folder as it is, and bytes as a file that is called as in the hub."""
    if isinstance(content, Path):
        yield content
        return
    with tempfile.TemporaryDirectory(prefix="hubpress-signed-") as folder:
        file = Path(folder) / (name.rpartition("/")[2] or "file")
        file.write_bytes(content)
        yield file


def _fingerprint(pem: bytes) -> str:
    return hashlib.sha256(pem).hexdigest()


def _as_pem(key: Any) -> bytes:
    """Return a public key as `openssl pkey -pubout` writes it; raises ValueError if model-signing does not take it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        kind = f"the curve {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else "another kind"
        raise ValueError(f"it is of {kind}, and not of an elliptic curve of {', '.join(_CURVES)}")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    found: bytes = key.public_bytes(serialization.Encoding.PEM, form)
    return found


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigningError(
            with_fix(f"{file}: the key cannot be read ({error.strerror})", "name a key's file")
        ) from error


def _public_keys_of(file: Path) -> dict[str, bytes]:
    """Return the public keys of a file."""
    from cryptography.hazmat.primitives import serialization

    data = _read(file)
    if b"PRIVATE KEY-----" in data:
        fix = f"give the public one, which `openssl pkey -in {file} -pubout` writes"
        raise SigningError(with_fix(f"{file}: it holds a private key", fix))
    found: dict[str, bytes] = {}
    try:
        for block in _PUBLIC_KEY.findall(data):
            key = serialization.load_pem_public_key(block + b"\n")
            pem = _as_pem(key)
            found[_fingerprint(pem)] = pem
    except Exception as error:
        raise SigningError(with_fix(f"{file}: a public key cannot be used: {error}", _MAKE_KEY)) from error
    if not found:
        raise SigningError(with_fix(f"{file}: it holds no public key in PEM", "name a file of public keys"))
    return found


def _public_half(file: Path, password: bytes | None) -> bytes:
    """Return the public key of a private one."""
    from cryptography.hazmat.primitives import serialization

    data = _read(file)
    try:
        return _as_pem(serialization.load_pem_private_key(data, password).public_key())
    except TypeError as error:  # of a password that is missing, or that nobody asked for
        fix = f"put the password into the environment variable {PASSWORD_VARIABLE}, and take it away for a plain key"
        raise SigningError(with_fix(f"{file}: {error}", fix)) from error
    except Exception as error:
        reason = str(error).partition(". ")[0]
        fix = f"name a private key in PEM, with its password in {PASSWORD_VARIABLE} if it has one; {_MAKE_KEY}"
        raise SigningError(with_fix(f"{file}: the private key cannot be used: {reason}", fix)) from error

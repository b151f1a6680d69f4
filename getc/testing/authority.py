"""A certificate authority in memory.  Requires the package ``cryptography``."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ['Authority']

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority with a self-signed certificate.

    Args:
        name: Its common name.

    Attributes:
        pem: Its own certificate, valid for 30 days.
    """

    def __init__(self, name: str) -> None:
        self._key = _new_key()
        subject = _common_name(name)
        builder = _builder(subject, subject, self._key, self._key, 30 * DAY, is_authority=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self, name: str, hosts: Sequence[str], lifetime: datetime.timedelta, begins: datetime.timedelta = -DAY
    ) -> tuple[bytes, bytes]:
        """Generate a key, and sign a certificate for servers and clients.

        Args:
            name: The common name.
            hosts: Subject alternative names: host names and IP addresses.
            lifetime: The end of the validity, relative to now; negative for an expired certificate.
            begins: The begin of the validity, relative to now.

        Returns:
            The certificate and the key, as PEM.
        """
        key = _new_key()
        issuer = self._certificate.subject
        builder = _builder(_common_name(name), issuer, key, self._key, lifetime, is_authority=False, begins=begins)
        # Both usages: etcd's JSON gateway presents the server's certificate as a client of the same server.
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(purposes, critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return (
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    lifetime: datetime.timedelta,
    *,
    is_authority: bool,
    begins: datetime.timedelta = -DAY,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(begins, lifetime - DAY))
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())  # takes less than a millisecond; RSA takes a hundred


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

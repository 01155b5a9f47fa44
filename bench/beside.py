"""
Run mitm as a benchmark of proxies wants it: a port, an upstream, an authority, all by argument.

    python bench/beside.py --listen 9443 --to 18443 --host NAME --ca ca-and-key.pem --trust ca.pem [--accountant]
        [--workers 2]

Everything is on: certificates on demand, dialects, the journal, the bus, limits, attribution. The authority is the
benchmark's own, put where a user's own would be. With --accountant one runs beside the worker, in its process tree, so
that what it costs is counted too; --workers are as many as share the port. State goes to a new directory, which is
removed at the end.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

PROJECT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Run until a signal says otherwise."""
    parser = argparse.ArgumentParser(description="mitm beside other proxies.")
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, help="upstream port on 127.0.0.1")
    parser.add_argument("--host", default="daily-cloudcode-pa.googleapis.com")
    parser.add_argument("--ca", type=Path, required=True, help="certificate and key of the authority")
    parser.add_argument("--trust", type=Path, required=True, help="authority of the upstream")
    parser.add_argument("--accountant", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wm-beside-") as home:
        return run(arguments, Path(home))


def run(arguments: argparse.Namespace, home: Path) -> int:
    """Start the processes, pass SIGTERM on, wait."""
    put_authority(arguments.ca.read_bytes(), home / "ca")
    environ = os.environ | {
        "WIREMETER_HOME": str(home),
        "WIREMETER_MITM_PORT": str(arguments.listen),
        "WIREMETER_MITM_UPSTREAM_MAP": json.dumps({arguments.host: f"127.0.0.1:{arguments.to}"}),
        "WIREMETER_MITM_UPSTREAM_CA_FILE": str(arguments.trust),
        "WIREMETER_MITM_POOL_SIZE_MAX": "4096",
        "WIREMETER_ACCOUNTANT_USAGE_ENDPOINT": f"tcp://127.0.0.1:{free_port()}",
    }
    services = [["mitm", str(number)] for number in range(arguments.workers)]
    if arguments.accountant:
        services.append(["accountant"])
    started = [
        subprocess.Popen([sys.executable, "-m", f"services.{name}", *words], cwd=PROJECT, env=environ)
        for name, *words in services
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: [process.terminate() for process in started])
    return max(process.wait() for process in started)


def free_port() -> int:
    """Return a port that nobody has, a moment ago at least."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def put_authority(pem: bytes, folder: Path) -> None:
    """
    Put an authority where a user's own would be.

    The benchmark has one authority for both sides, and mitm never trusts its own certificate upstream. So it gets
    another certificate of the same name and key: what it signs chains to the benchmark's one as well.
    """
    given = x509.load_pem_x509_certificate(pem)
    key = load_pem_private_key(pem, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder(
        issuer_name=given.subject,
        subject_name=given.subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=given.not_valid_before_utc,
        not_valid_after=given.not_valid_before_utc + timedelta(days=365),
    )
    for extension in given.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    folder.mkdir(mode=0o700)
    (folder / "ca.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(pem)


if __name__ == "__main__":
    sys.exit(main())

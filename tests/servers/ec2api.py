"""OpenStack's own EC2 endpoint over Glance and Swift: real, with the two shims of ec2api_main."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from tests.servers.environments import interpreter
from tests.servers.keystone import REGION, service_login
from tests.servers.processes import Processes, run
from tests.servers.seeds import copy_seed

_PASTE = dedent("""
    [composite:ec2api]
    use = egg:Paste#urlmap
    /: endpoint
    [pipeline:endpoint]
    pipeline = faults authentication request executor
    [filter:faults]
    paste.filter_factory = ec2api.api:FaultWrapper.factory
    [filter:authentication]
    paste.filter_factory = ec2api.api:EC2KeystoneAuth.factory
    [filter:request]
    paste.filter_factory = ec2api.api:Requestify.factory
    [app:executor]
    paste.app_factory = ec2api.api:Executor.factory
    """)


def start(processes: Processes, directory: Path, port: int, keystone: str, s3: str) -> str:
    """Start the endpoint; its URL. Bundles are to be encrypted for `certificate(directory)`."""
    copy_seed("ec2api", "ec2api", directory, _seed)
    (directory / "work").mkdir()
    (directory / "paste.ini").write_text(_PASTE)
    config = directory / "ec2api.conf"
    config.write_text(
        dedent(f"""
        [DEFAULT]
        use_stderr = true
        api_paste_config = {directory}/paste.ini
        ec2api_listen = 127.0.0.1
        ec2api_listen_port = {port}
        ec2api_workers = 1
        state_path = {directory}
        image_decryption_dir = {directory}/work
        s3_url = {s3}
        s3_region = {REGION}
        x509_root_private_key = {directory}/cloud-key.pem
        keystone_ec2_tokens_url = {keystone}/ec2tokens
        """)
        + _database(directory)
        + service_login(keystone, "keystone_authtoken")
    )
    main = Path(__file__).parent / "inside" / "ec2api_main.py"
    processes.start("ec2api", [interpreter("ec2api"), main, "--config-file", config])
    url = f"http://127.0.0.1:{port}/"
    processes.wait_for("ec2api", url)
    return url


def certificate(directory: Path) -> Path:
    """The cloud's certificate."""
    return directory / "cloud-cert.pem"


def _database(directory: Path) -> str:
    return f"[database]\nconnection = sqlite:///{directory}/ec2api.sqlite\n"


def _seed(directory: Path) -> None:
    log = directory / "manage.log"
    config = directory / "seed.conf"
    config.write_text(_database(directory))
    manage = interpreter("ec2api").with_name("ec2-api-manage")
    run([manage, "--config-file", config, "db_sync"], log)
    request = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "3650",
        "-subj",
        "/CN=cloud",
    ]
    key = str(directory / "cloud-key.pem")
    run(["openssl", *request, "-keyout", key, "-out", str(certificate(directory))], log)

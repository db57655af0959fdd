"""No trace of the installed machine or its builder is left, or it is told by its file's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import pytest

from pipeline.core.events import QuietProgress
from pipeline.core.resources import PROJECT
from pipeline.guest.access.editor import Edit, Editor
from pipeline.guest.customize.apply import Customization, customize
from pipeline.guest.customize.generalise import remove_identity
from pipeline.guest.customize.hostname import exim_without, hosts_without, postfix_without
from pipeline.guest.customize.proxies import apt_without_proxies
from pipeline.host.context import Tools
from pipeline.host.programs import Runner
from tests.fixtures.memory_guest import MemoryGuest

Tree = Mapping[str, str | bytes | Mapping[str, str] | None]
ID = "0123456789abcdef0123456789abcdef\n"
PASSWD = (
    "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1::/bin:/sbin/nologin\n"
    "ann:x:1000:1000::/home/ann:/bin/bash\nrabbitmq:x:99:99::/var/lib/rabbitmq:/bin/sh\n"
)
BASE: Tree = {
    "/sbin/init": {"link": "/usr/lib/systemd/systemd"},
    "/usr/lib/systemd/systemd": "",
    "/usr/lib/systemd/system/rc-local.service": "[Service]\nExecStart=/etc/rc.local start\n",
    "/usr/lib/systemd/system-generators/systemd-rc-local-generator": "",
    "/etc/passwd": PASSWD,
    "/etc/fstab": "UUID=1 / ext4 defaults 0 1\n",
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHl5 builder@host\n"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n-----END OPENSSH PRIVATE KEY-----\n"


def customized(tree: Tree) -> tuple[MemoryGuest, Customization]:
    guest = MemoryGuest({**BASE, **tree})
    with Runner() as runner:
        tools = Tools(runner, QuietProgress(), PROJECT)
        result = customize(guest, user="root", templates=PROJECT / "templates", tools=tools)
        again = customize(guest, user="root", templates=PROJECT / "templates", tools=tools)
    assert (again.edits, again.removed) == ((), ())
    return guest, result


# Gone

GONE: dict[str, str] = {
    "/var/lib/dhcp/dhclient.eth0.leases": "lease",
    "/var/lib/dhcpcd/eth0.lease": "lease",
    "/var/lib/dhcpcd/duid": "00:01",
    "/var/lib/dhcpcd/secret": "x",
    "/var/lib/wicked/lease-eth0-dhcp-ipv4.xml": "<lease/>",
    "/var/lib/wicked/duid.xml": "<duid/>",
    "/var/lib/NetworkManager/internal-1-2-ens3.lease": "ADDRESS=192.0.2.9",
    "/var/lib/NetworkManager/secret_key": "x",
    "/var/lib/NetworkManager/seen-bssids": "x",
    "/var/lib/NetworkManager/no-auto-default.state": "52:54:00:01:02:03",
    "/var/lib/NetworkManager/dhclient-ens3.conf": 'send host-name "builder";',
    "/var/lib/connman/ethernet_525400010203_cable/settings": "x",
    "/var/lib/systemd/credential.secret": "x",
    "/var/lib/systemd/random-seed": "x",
    "/var/lib/seedrng/seed.credit": "x",
    "/boot/loader/random-seed": "x",
    "/boot/efi/loader/random-seed": "x",
    "/var/lib/systemd/coredump/core.x.zst": "x",
    "/var/crash/202601010000/vmcore": "x",
    "/var/spool/abrt/ccpp-1/coredump": "x",
    "/etc/nvme/hostnqn": "nqn.2014-08.org.nvmexpress:uuid:0123\n",
    "/etc/nvme/hostid": "0123\n",
    "/etc/multipath/bindings": "mpatha 3600\n",
    "/etc/multipath/wwids": "/3600/\n",
    "/etc/lvm/devices/system.devices": "IDTYPE=x\n",
    "/etc/lvm/devices/backup/system.devices-20260101": "IDTYPE=x\n",
    "/etc/salt/minion_id": "builder",
    "/etc/salt/pki/minion/minion.pem": PRIVATE,
    "/etc/docker/key.json": "{}",
    "/etc/hostid": "x",
    "/etc/blkid.tab": "x",
    "/var/lib/cloud/instance": "x",
    "/var/lib/cloud/instances/i-1/user-data.txt": "x",
    "/var/lib/cloud/data/instance-id": "i-1",
    "/var/lib/cloud/sem/config_x.once": "x",
    "/var/log/cloud-init.log": "x",
    "/var/log/cloud-init-output.log": "x",
    "/etc/cloud/cloud.cfg.d/99-installer.cfg": "datasource_list: [None]\n",
    "/etc/cloud/cloud.cfg.d/90-installer-network.cfg": "network:\n  version: 2\n",
    "/etc/cloud/cloud.cfg.d/50-curtin-networking.cfg": "network:\n  version: 2\n",
    "/etc/cloud/cloud.cfg.d/subiquity-disable-cloudinit-networking.cfg": "network: {}\n",
    "/etc/cloud/cloud.cfg.d/60-site.cfg": "network:\n  config:\n  - address: 192.0.2.9/24\n",
    "/var/log/installer/autoinstall-user-data": "password: x",
    "/var/log/curtin/install.log": "x",
    "/root/anaconda-ks.cfg": "rootpw --iscrypted x\n",
    "/var/log/journal/0123456789abcdef0123456789abcdef/system.journal": "x",
    "/var/log/journal/0123456789abcdef0123456789abcdef.site/system.journal": "x",
    "/root/.bash_history": "mysql -pSECRET\n",
    "/root/.wget-hsts": "deb.example.com\n",
    "/root/.lesshst": "x",
    "/root/.viminfo": "x",
    "/home/ann/.zsh_history": "x",
    "/home/ann/.python_history": "x",
    "/home/ann/.zhistory": "x",
    "/home/ann/.local/state/python_history": "x",
    "/home/ann/.local/state/nvim/shada/main.shada": "x",
    "/home/ann/.local/share/nano/search_history": "x",
    "/home/ann/.config/fish/fish_history": "x",
    "/home/ann/.vim/.netrwhist": "x",
    "/home/ann/.local/share/fish/fish_history": "x",
    "/home/unlisted/.bash_history": "x",
    "/etc/apt/apt.conf.d/90curtin-aptproxy": 'Acquire::http::Proxy "http://p:3128";\n',
    "/etc/systemd/system/snapd.service.d/snap_proxy.conf": "[Service]\n",
    "/var/lib/wtmpdb/wtmp.db": "x",
}  # fmt: skip


def test_everything_of_one_machine_goes() -> None:
    guest, _ = customized(GONE)
    assert [path for path in GONE if path in guest.nodes] == []


EMPTIED = ("/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog", "/var/spool/mail/root")


def test_records_of_logins_and_mail_are_emptied_untold() -> None:
    tree: Tree = dict.fromkeys(EMPTIED, "SECRET")
    guest, result = customized(
        {**tree, "/var/log/lastlog": b"\0" * (3 << 20), "/var/mail": {"link": "spool/mail"}}
    )
    for path in EMPTIED:
        assert guest.nodes[path].data == b""
        assert Edit(path, "emptied") in result.edits
    assert "SECRET" not in told(result)


def told(result: Customization) -> str:
    return json.dumps(asdict(result))


REGISTERED = {
    "/etc/pki/consumer/key.pem": PRIVATE,
    "/etc/pki/consumer/cert.pem": "x",
    "/etc/pki/entitlement/1-key.pem": PRIVATE,
    "/etc/sysconfig/rhn/systemid": "x",
    "/etc/insights-client/machine-id": "x",
    "/etc/zypp/credentials.d/SCCcredentials": "username=x\npassword=SECRET\n",
    "/var/lib/ubuntu-advantage/private/machine-token.json": "SECRET",
    "/etc/apt/auth.conf.d/90ubuntu-advantage": "machine esm login bearer password SECRET",
}


@pytest.mark.parametrize("path", REGISTERED)
def test_a_registration_goes_and_is_told(path: str) -> None:
    guest, result = customized({path: REGISTERED[path]})
    assert path not in guest.nodes
    assert any("registration with" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/krb5.keytab",
        "/etc/puppetlabs/puppet/ssl/private_keys/builder.pem",
        "/etc/chef/client.pem",
        "/var/lib/tailscale/tailscaled.state",
    ],
)
def test_an_identity_that_a_site_gives_is_told(path: str) -> None:
    guest, result = customized({path: "x"})
    assert path in guest.nodes
    (warning,) = (w for w in result.warnings if "this one identity" in w)
    assert path.rpartition("/")[0] in warning


# iSCSI

INITIATOR = "/etc/iscsi/initiatorname.iscsi"


def test_a_new_initiator_name_by_debians_script() -> None:
    checks = "grep -q ^GenerateName=yes /etc/iscsi/initiatorname.iscsi && iscsi-iname\n"
    guest, result = customized(
        {INITIATOR: "InitiatorName=iqn.x:1\n", "/usr/lib/open-iscsi/startup-checks.sh": checks}
    )
    assert guest.text(INITIATOR) == "GenerateName=yes\n"
    assert not any("iSCSI" in warning for warning in result.warnings)


def test_a_new_initiator_name_by_a_unit() -> None:
    guest, result = customized(
        {INITIATOR: "InitiatorName=iqn.x:1\n", "/usr/lib/systemd/system/iscsi-init.service": "x"}
    )
    assert INITIATOR not in guest.nodes
    assert not any("iSCSI" in warning for warning in result.warnings)


def test_an_initiator_name_that_nobody_makes_anew_is_told() -> None:
    tree = {INITIATOR: " InitiatorName = iqn.x:1\n", "/var/lib/iscsi/nodes/iqn.y/x": ""}
    guest, result = customized(tree)
    assert INITIATOR not in guest.nodes
    assert sum("iSCSI" in warning for warning in result.warnings) == 2
    guest, result = customized({INITIATOR: "GenerateName=yes\n"})
    assert guest.text(INITIATOR) == "GenerateName=yes\n"


# Machine id


def test_a_machine_id_that_is_a_link_to_dbuss_becomes_the_file() -> None:
    tree: Tree = {
        "/etc/machine-id": {"link": "/var/lib/dbus/machine-id"},
        "/var/lib/dbus/machine-id": ID,
    }
    guest, _ = customized(tree)
    assert guest.nodes["/etc/machine-id"].status.kind == "file"
    assert guest.text("/etc/machine-id") == ""
    assert guest.resolve("/var/lib/dbus/machine-id") == "/etc/machine-id"


def test_a_machine_id_behind_another_link_is_emptied_there() -> None:
    tree: Tree = {"/etc/machine-id": {"link": "../usr/local/id"}, "/usr/local/id": ID}
    guest, _ = customized({**tree, "/var/lib/dbus/machine-id": ID})
    assert guest.nodes["/etc/machine-id"].target == "../usr/local/id"
    assert guest.text("/usr/local/id") == ""
    assert "/var/lib/dbus/machine-id" not in guest.nodes


def test_a_machine_id_that_leads_nowhere_becomes_a_file() -> None:
    guest, _ = customized({"/etc/machine-id": {"link": "/var/lib/dbus/machine-id"}})
    assert guest.nodes["/etc/machine-id"].status.kind == "file"


@pytest.mark.parametrize("directory", [{}, {"/run": None}])
def test_a_machine_id_in_run_is_a_wish(directory: Tree) -> None:
    guest, _ = customized({"/etc/machine-id": {"link": "/run/machine-id"}, **directory})
    assert guest.nodes["/etc/machine-id"].target == "/run/machine-id"


def test_an_uninitialized_machine_id_stays() -> None:
    guest, _ = customized({"/etc/machine-id": "uninitialized\n"})
    assert guest.text("/etc/machine-id") == "uninitialized\n"


# Names


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/hostname", "builder.example.com\n"),
        ("/etc/hostname", "# by hand\nBuilder\n"),
        ("/etc/HOSTNAME", "builder.example.com\n"),
        ("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=builder.example.com\n"),
        ("/etc/sysconfig/network", 'export HOSTNAME="builder"\n'),
        ("/etc/conf.d/hostname", 'hostname="builder"\n'),
        ("/etc/rc.conf", "HOSTNAME='builder'\n"),
        ("/etc/nodename", "builder\n"),
        ("/etc/sysconfig/networking/profiles/default/network", "HOSTNAME=builder\n"),
        ("/etc/sysconfig/network-scripts/ifcfg-ens3", "DHCP_HOSTNAME=builder\n"),
        ("/etc/dhcp/dhclient.conf", 'send host-name "builder";\n'),
    ],
)
def test_hosts_lose_the_name_wherever_it_comes_from(path: str, text: str) -> None:
    hosts = (
        "127.0.0.1 builder.example.com builder localhost.localdomain localhost\n"
        "192.0.2.9 BUILDER.example.com builder\n192.0.2.7 other.example.com other\n"
    )
    guest, _ = customized({path: text, "/etc/hosts": hosts})
    assert guest.text("/etc/hosts") == (
        "127.0.0.1\tlocalhost.localdomain localhost\n192.0.2.7 other.example.com other\n"
    )
    assert "uilder" not in (guest.text(path) if path in guest.nodes else "")


def test_debians_line_is_a_source_of_the_name_and_suses_client_sends_none() -> None:
    tree = {
        "/etc/hosts": "127.0.1.1 builder.lan builder\n192.0.2.9 builder\n127.0.0.1 localhost\n",
        "/etc/sysconfig/network/dhcp": 'DHCLIENT_HOSTNAME_OPTION="builder"\nX="AUTO"\n',
    }
    guest, _ = customized(tree)
    assert guest.text("/etc/hosts") == "127.0.0.1 localhost\n"
    sent = 'DHCLIENT_HOSTNAME_OPTION="AUTO"\nX="AUTO"\n'
    assert guest.text("/etc/sysconfig/network/dhcp") == sent


def test_a_name_without_a_domain_is_the_machines_in_any() -> None:
    assert hosts_without("192.0.2.9 builder.lan\n192.0.2.8 web.lan\n", "builder") == (
        "192.0.2.8 web.lan\n"
    )
    assert (
        hosts_without("192.0.2.9 www.b.example\n", "www.a.example") == "192.0.2.9 www.b.example\n"
    )
    assert hosts_without("127.0.0.1 localhost\n", []) == "127.0.0.1 localhost\n"


def test_mail_servers_lose_the_name() -> None:
    main = (
        "myhostname = builder.example.com\n#myhostname = host.domain.tld\n"
        "mydestination = $myhostname, builder.example.com,\n  builder, localhost\nrelayhost =\n"
    )
    names = ["builder.example.com"]
    assert postfix_without(main, names) == (
        "# myhostname =\n#myhostname = host.domain.tld\n"
        "mydestination = $myhostname, localhost\nrelayhost =\n"
    )
    assert (
        postfix_without("myhostname = mx.example.com\n", names) == "myhostname = mx.example.com\n"
    )
    exim = "dc_other_hostnames='builder.example.com;x.org'\ndc_local_interfaces='127.0.0.1 ; ::1'\n"
    assert exim_without(exim, names) == exim.replace("builder.example.com;", "")
    guest, _ = customized({"/etc/hostname": "builder\n", "/etc/mailname": "builder.lan\n"})
    assert guest.text("/etc/mailname") == "localhost\n"
    guest, _ = customized({"/etc/hostname": "builder\n", "/etc/mailname": "example.com\n"})
    assert guest.text("/etc/mailname") == "example.com\n"


def test_where_the_name_is_still_used_is_told() -> None:
    tree = {"/etc/hostname": "builder\n", "/etc/ssmtp/ssmtp.conf": "hostname=builder.example.com\n"}
    _, result = customized(tree)
    assert any("/etc/ssmtp/ssmtp.conf still has" in warning for warning in result.warnings)


def test_a_generic_name_is_nobodys() -> None:
    hosts = "127.0.0.1 localhost localhost.localdomain\n192.0.2.7 localhost.example.com\n"
    guest, _ = customized({"/etc/hostname": "localhost.localdomain\n", "/etc/hosts": hosts})
    assert guest.text("/etc/hosts") == hosts


# The resolver


def test_name_servers_go_from_files_of_the_guests_own() -> None:
    tree: Tree = {
        "/etc/resolv.conf": {"link": "resolv.static"},
        "/etc/resolv.static": "nameserver 192.0.2.53\n",
        "/etc/resolvconf/resolv.conf.d/base": "options rotate\nnameserver 192.0.2.53\n",
        "/etc/resolvconf/resolv.conf.d/original": "search corp.example\n",
    }
    guest, _ = customized(tree)
    assert guest.text("/etc/resolv.static") == ""
    assert guest.text("/etc/resolvconf/resolv.conf.d/base") == "options rotate\n"
    assert guest.text("/etc/resolvconf/resolv.conf.d/original") == ""
    vendor = "/usr/lib/systemd/resolv.conf"
    guest, _ = customized({"/etc/resolv.conf": {"link": vendor}, vendor: "nameserver 127.0.0.53\n"})
    assert guest.text(vendor) == "nameserver 127.0.0.53\n"


def test_name_servers_that_somebody_made_immutable_stay_and_are_told() -> None:
    guest = MemoryGuest({"/etc/resolv.conf": "nameserver 192.0.2.53\n"})
    guest.nodes["/etc/resolv.conf"].immutable = True
    editor = Editor(guest)
    remove_identity(editor)
    assert guest.text("/etc/resolv.conf") == "nameserver 192.0.2.53\n"
    assert any("/etc/resolv.conf is immutable" in warning for warning in editor.warnings)


# Proxies

PROXY = "http://user:SECRET@proxy.example:3128/"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        (f'Acquire::http::Proxy "{PROXY}";\nAPT::X "1";\n', '\nAPT::X "1";\n'),
        (f'Acquire {{ https {{ Proxy "{PROXY}"; A 3; }}; }};', "Acquire { https {  A 3; }; };"),
        (f'acquire::http {{ proxy::deb.debian.org "{PROXY}"; }};', "acquire::http {  };"),
        ('Acquire::http::Proxy-Auto-Detect "/x";', ""),
        ('Acquire::http::A "3"; // Proxy "x";\n', 'Acquire::http::A "3"; // Proxy "x";\n'),
        ('Acquire::http::No-Cache "true"; # {\n', 'Acquire::http::No-Cache "true"; # {\n'),
    ],
)  # fmt: skip
def test_apt_without_proxies(text: str, becomes: str) -> None:
    assert apt_without_proxies(text) == becomes


def test_an_installers_proxy_goes_and_no_password_is_told() -> None:
    text = f'APT::X "1";\nAcquire::http::Proxy "{PROXY}";\n'
    guest, result = customized({"/etc/apt/apt.conf": text})
    assert guest.text("/etc/apt/apt.conf") == 'APT::X "1";\n\n'
    assert "proxy.example" in told(result)
    assert "SECRET" not in told(result)
    guest, _ = customized({"/etc/apt/apt.conf": f'Acquire::http::Proxy "{PROXY}";\n'})
    assert "/etc/apt/apt.conf" not in guest.nodes


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/apt/apt.conf.d/01proxy", f'Acquire::http {{ Proxy "{PROXY}"; }};\n'),
        ("/etc/dnf/dnf.conf", f"[main]\nproxy={PROXY}\nproxy_password=SECRET\n"),
        ("/etc/yum.conf", "[main]\nproxy = http://proxy.example:3128\n"),
        ("/etc/dnf/libdnf5.conf.d/50-site.conf", "[main]\nproxy = http://proxy.example:3128\n"),
        ("/etc/yum.repos.d/a.repo", f"[a]\nproxy={PROXY}\n"),
        ("/etc/sysconfig/proxy", 'PROXY_ENABLED="yes"\nHTTP_PROXY="http://proxy.example"\n'),
        ("/etc/zypp/repos.d/a.repo", "[a]\nbaseurl=http://x/?proxy=proxy.example&proxyport=1\n"),
        ("/etc/environment", f'http_proxy="{PROXY}"\n'),
        ("/etc/profile.d/proxy.sh", "export HTTPS_PROXY=http://proxy.example:3128\n"),
        ("/etc/profile.d/proxy.csh", "setenv http_proxy http://proxy.example:3128\n"),
        ("/etc/systemd/system.conf.d/p.conf", "DefaultEnvironment=http_proxy=http://p\n"),
        ("/etc/systemd/system/docker.service.d/p.conf", 'Environment="HTTP_PROXY=http://p"\n'),
        ("/etc/systemd/system.conf", "[Manager]\nDefaultEnvironment=http_proxy=http://p\n"),
        ("/etc/docker/daemon.json", '{"proxies": {\n  "https-proxy": "http://p"\n}}'),
        ("/root/.docker/config.json", '{"proxies": {"default": {\n  "httpProxy": "http://p"\n}}}'),
        ("/etc/sysconfig/rhn/up2date", "httpProxy=p:3128\n"),
        ("/etc/wgetrc", "https_proxy = http://proxy.example:3128/\n"),
        ("/root/.curlrc", 'proxy = "http://proxy.example"\n'),
        ("/root/.gitconfig", "[http]\n\tproxy = http://proxy.example\n"),
        ("/etc/rhsm/rhsm.conf", "proxy_hostname = proxy.example\n"),
    ],
)  # fmt: skip
def test_another_proxy_is_told(path: str, text: str) -> None:
    guest, result = customized({path: text})
    assert guest.text(path) == text
    (warning,) = (w for w in result.warnings if "names a proxy" in w)
    assert path in warning
    assert "SECRET" not in told(result)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/dnf/dnf.conf", "[main]\n#proxy=http://x\nproxy=_none_\n"),
        ("/etc/yum.conf", "[main]\nproxy=\n"),
        ("/etc/environment", 'no_proxy="localhost"\nhttp_proxy=""\n'),
        ("/etc/profile.d/off.sh", "unset http_proxy\nproxy () { :; }\n"),
        ("/etc/sysconfig/proxy", 'PROXY_ENABLED="no"\nHTTP_PROXY="http://x"\n'),
        ("/etc/sysconfig/rhn/up2date", "httpProxy[comment]=x\nhttpProxy=\nenableProxy=0\n"),
        ("/etc/rhsm/rhsm.conf", "proxy_hostname =\nproxy_scheme = http\n"),
    ],
)
def test_no_proxy_is_not_told(path: str, text: str) -> None:
    _, result = customized({path: text})
    assert not any("proxy" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/apt/sources.list", "deb cdrom:[Debian 12]/ bookworm main\n"),
        ("/etc/zypp/repos.d/a.repo", "[a]\nbaseurl=hd:///?device=/dev/disk/by-id/usb-1\n"),
        ("/etc/yum.repos.d/a.repo", "[a]\nbaseurl=http://192.168.122.1/tree\n"),
    ],
)
def test_packages_from_the_installation_are_told(path: str, text: str) -> None:
    _, result = customized({path: text})
    assert any(path in warning and "medium" in warning for warning in result.warnings)
    _, result = customized({path: text.replace("deb", "#deb").replace("base", "#base")})
    assert not any("medium" in warning for warning in result.warnings)


# Keys and passwords


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("/root/.ssh/authorized_keys", f"# mine\n{KEY}", "log in to every instance"),
        ("/root/.ssh/authorized_keys2", KEY, "log in to every instance"),
        ("/home/ann/.ssh/authorized_keys", KEY, "log in to every instance"),
        ("/var/lib/rabbitmq/.ssh/authorized_keys", KEY, "log in to every instance"),
        ("/etc/skel/.ssh/authorized_keys", KEY, "log in to every instance"),
        ("/etc/ssh/authorized_keys.d/ann", KEY, "log in to every instance"),
        ("/etc/ssh/authorized_keys/ann/authorized_keys", KEY, "log in to every instance"),
        ("/etc/dropbear/authorized_keys", KEY, "log in to every instance"),
        ("/root/.ssh/id_ed25519", PRIVATE, "private key"),
        ("/root/.ssh/deploy", PRIVATE, "private key"),
        ("/home/ann/.ssh/id_rsa", "-----BEGIN RSA PRIVATE KEY-----\n", "private key"),
        ("/root/.ssh/putty", "PuTTY-User-Key-File-2: ssh-rsa\n", "private key"),
        ("/etc/openvpn/client/a.key", PRIVATE, "private key"),
        ("/etc/ssl/private/site.key", PRIVATE, "private key"),
        ("/etc/nginx/ssl/site.key", PRIVATE, "private key"),
        ("/etc/letsencrypt/live/site.example/privkey.pem", PRIVATE, "private key"),
        ("/etc/wpa_supplicant/wpa_supplicant.conf", 'network={\n psk="SECRET"\n}\n', "credentials"),
        ("/root/.ssh/known_hosts", f"git.example {KEY}", "hosts that the build knew"),
        ("/root/.netrc", "machine x login y password SECRET\n", "credentials"),
        ("/home/ann/.git-credentials", "https://ann:SECRET@git.example\n", "credentials"),
        ("/home/ann/.aws/credentials", "aws_secret_access_key=SECRET\n", "credentials"),
        ("/root/.docker/config.json", '{"auths": {"x": {"auth": "SECRET"}}}', "credentials"),
        ("/root/.npmrc", "//registry.example/:_authToken=SECRET\n", "credentials"),
        ("/root/.config/pip/pip.conf", "index-url=https://u:SECRET@x/simple\n", "credentials"),
        ("/etc/pip.conf", "[global]\nindex-url = https://u:SECRET@x/simple\n", "credentials"),
        ("/root/.gnupg/private-keys-v1.d/A.key", "SECRET", "credentials"),
        ("/etc/apt/auth.conf", "machine x login y password SECRET\n", "credentials"),
        ("/etc/apt/auth.conf.d/site.conf", "machine x login y password SECRET\n", "credentials"),
        ("/etc/apt/sources.list.d/a.list", "deb https://u:SECRET@x/ a b\n", "credentials"),
        ("/etc/yum.repos.d/a.repo", "[a]\nusername=u\npassword=SECRET\n", "credentials"),
        ("/etc/zypp/credentials.d/site", "username=u\npassword=SECRET\n", "credentials"),
        ("/etc/mysql/debian.cnf", "password = SECRET\n", "credentials"),
        ("/etc/sssd/sssd.conf", "[domain/x]\nldap_default_authtok = SECRET\n", "credentials"),
        (
            "/etc/cloud/cloud.cfg.d/80-u.cfg",
            "chpasswd:\n  list: x\npassword: SECRET\n",
            "credentials",
        ),
        ("/etc/cloud/cloud.cfg", "users:\n- ssh-authorized-keys:\n  - x SECRET\n", "credentials"),
        ("/etc/nslcd.conf", "bindpw SECRET\n", "credentials"),
        ("/etc/wireguard/wg0.conf", "[Interface]\nPrivateKey = SECRET\n", "credentials"),
        ("/etc/iscsi/iscsid.conf", "node.session.auth.password = SECRET\n", "credentials"),
        ("/var/lib/cloud/seed/nocloud/user-data", "password: SECRET\n", "cloud-init"),
        ("/etc/cloud/cloud.cfg.d/99-x.cfg", "datasource_list: [ NoCloud ]\n", "cloud-init"),
        ("/etc/cloud/cloud.cfg.d/99-y.cfg", "#cloud-config\nhostname: builder\n", "cloud-init"),
        ("/etc/cloud/cloud.cfg.d/99-z.cfg", "fqdn: builder.example\n", "cloud-init"),
    ],
)
def test_keys_and_passwords_stay_and_are_told(path: str, text: str, words: str) -> None:
    guest, result = customized({path: text})
    assert guest.text(path) == text
    (warning,) = (w for w in result.warnings if words in w)
    assert path in warning or path.rpartition("/")[0] in warning
    assert "SECRET" not in told(result)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/root/.ssh/authorized_keys", "# nobody\n\n"),
        ("/root/.ssh/id_ed25519.pub", KEY),
        ("/root/.ssh/config", "Host *\n"),
        ("/root/.npmrc", "registry=https://registry.example/\n"),
        ("/root/.gitconfig", "[user]\nname = x\n"),
        ("/etc/yum.repos.d/a.repo", "[a]\nbaseurl=https://x/\n#password=x\n"),
        ("/etc/ssh/ssh_config", "Host *\n"),
        ("/etc/apt/auth.conf.d/.keep", ""),
        (
            "/etc/cloud/cloud.cfg",
            "system_info:\n  default_user:\n    lock_passwd: True\n#password: x\nssh_pwauth: no\n",
        ),
        ("/etc/cloud/cloud.cfg.d/10-h.cfg", "preserve_hostname: true\n#hostname: x\n"),
        ("/etc/sssd/sssd.conf", "[domain/x]\n#ldap_default_authtok = x\nid_provider = ad\n"),
        ("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [ NoCloud, Ec2, None ]\n"),
    ],
)
def test_what_is_no_secret_is_not_told(path: str, text: str) -> None:
    _, result = customized({path: text})
    assert result.warnings == ()


def test_a_password_in_a_mount_that_stays_is_told() -> None:
    line = "//nas/x /x cifs _netdev,nofail,username=u,password=SECRET 0 0\n"
    guest, result = customized({"/etc/fstab": f"UUID=1 / ext4 defaults 0 1\n{line}"})
    assert line in guest.text("/etc/fstab")
    assert any("/etc/fstab holds credentials" in warning for warning in result.warnings)


def test_keys_where_sshd_is_told_to_look() -> None:
    tree = {
        "/etc/ssh/sshd_config.d/a.conf": "AuthorizedKeysFile .ssh/x /srv/keys/%u /etc/all_keys\n",
        "/srv/keys/ann": KEY,
        "/etc/all_keys": KEY,
    }
    _, result = customized(tree)
    (warning,) = (w for w in result.warnings if "log in" in w)
    assert "/srv/keys/ann" in warning
    assert "/etc/all_keys" in warning


def test_many_are_counted() -> None:
    _, result = customized({f"/home/u{n:02}/.ssh/authorized_keys": KEY for n in range(12)})
    (warning,) = (w for w in result.warnings if "log in" in w)
    assert "and 4 more" in warning


def test_debconfs_passwords_go_untold() -> None:
    path = "/var/cache/debconf/passwords.dat"
    text = "Name: mysql/root_password\nTemplate: x\nValue: SECRET\nOwners: mysql\n"
    guest, result = customized({path: text})
    assert guest.text(path) == text.replace(" SECRET", "")
    assert "SECRET" not in told(result)
    assert path in told(result)


def test_a_diff_shows_no_passwords() -> None:
    guest = MemoryGuest({"/a": "x=1\nwpa-psk SECRET\npassword: SECRET\nu http://u:SECRET@h/\n"})
    editor = Editor(guest)
    editor.write("/a", "x=2\n")
    (edit,) = editor.edits
    assert "x=1" in edit.change
    assert "wpa-psk ****" in edit.change
    assert "SECRET" not in edit.change


def test_what_cloud_init_needs_stays() -> None:
    kept = {
        "/var/lib/cloud/scripts/per-boot/site.sh": "x",
        "/etc/cloud/cloud.cfg.d/05_logging.cfg": "x",
        "/etc/cloud/cloud.cfg": "x",
        "/etc/cloud/ds-identify.cfg": "policy: search\n",
    }
    guest, _ = customized(kept)
    assert [path for path in kept if path not in guest.nodes] == []

"""Names and registrations that must differ from machine to machine.

What a program makes anew by itself goes; what only its server can give goes with a word; what
the pipeline cannot tell from a wish stays, and is told.
"""

from __future__ import annotations

import re

from pipeline.guest.access.editor import Editor
from pipeline.guest.access.paths import shown
from pipeline.guest.customize.addresses import listed

_UNITS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_ISCSI = "/etc/iscsi/initiatorname.iscsi"
# Debian's iscsid has this script make a name where the file says "GenerateName=yes", and does
# not start without the file; Red Hat's and SUSE's have a unit that makes a missing file.
_ISCSI_SCRIPTS = ("/usr/lib/open-iscsi/startup-checks.sh", "/lib/open-iscsi/startup-checks.sh")
_ISCSI_UNIT = "iscsi-init.service"
_ISCSI_TARGETS = (
    *("/etc/iscsi/nodes", "/etc/iscsi/send_targets"),
    *("/var/lib/iscsi/nodes", "/var/lib/iscsi/send_targets"),
)
# Made anew by their programs, without anybody's help.
_RENEWED = (
    "/etc/nvme/hostnqn",
    "/etc/nvme/hostid",
    "/etc/multipath/bindings",
    "/etc/multipath/wwids",
    "/etc/multipath/prkeys",
    "/var/lib/multipath/bindings",
    "/etc/hostid",
    "/etc/blkid.tab",
    "/etc/blkid/blkid.tab",
    "/etc/docker/key.json",
    "/var/lib/docker/engine-id",
    "/etc/salt/minion_id",
    "/etc/salt/pki/minion/minion.pem",
    "/etc/salt/pki/minion/minion.pub",
    "/var/lib/fwupd/pki/secret.key",
    "/var/lib/fwupd/pki/client.pem",
    "/var/lib/yum/uuid",
    "/etc/smolt/uuid",
    "/etc/smolt/hw-uuid",
    "/etc/cockpit/ws-certs.d/0-self-signed.cert",
    "/etc/cockpit/ws-certs.d/0-self-signed.key",
    "/etc/cockpit/ws-certs.d/0-self-signed-ca.pem",
)
# What one machine got from a service: path (of a directory: every entry that matches) -> of whom.
_REGISTRATIONS = (
    ("/etc/pki/consumer", r".*", "subscription-manager"),
    ("/etc/pki/entitlement", r".*\.pem", "subscription-manager"),
    ("/var/lib/rhsm/cache", r".*", "subscription-manager"),
    ("/var/lib/rhsm/facts", r".*", "subscription-manager"),
    ("/etc/sysconfig/rhn", r"systemid|osad-auth\.conf|up2date-uuid", "Spacewalk"),
    ("/etc/insights-client", r"machine-id|\.registered|\.lastupload", "insights-client"),
    ("/etc/redhat-access-insights", r"machine-id|\.registered|\.lastupload", "insights-client"),
    ("/etc/zypp/credentials.d", r"(?:SCC|NCC)credentials", "SUSEConnect"),
    ("/var/lib/ubuntu-advantage/private", r".*", "Ubuntu Pro"),
    ("/var/lib/ubuntu-advantage", r"machine-token\.json|machine-access-.*", "Ubuntu Pro"),
    ("/etc/apt/auth.conf.d", r"90ubuntu-(?:advantage|pro)", "Ubuntu Pro"),
    ("/var/lib/amazon/ssm", r"registration|Vault", "amazon-ssm-agent"),
    ("/var/lib/waagent", r"provisioned|ovf-env\.xml|.*\.(?:prv|p7m|crt)", "waagent"),
)
# Identities that a site gives: every instance has the same, and only the site knows whether so.
_SHARED = (
    ("/etc/krb5.keytab", "Kerberos"),
    ("/var/lib/samba/private/secrets.tdb", "Samba"),
    ("/etc/puppetlabs/puppet/ssl/private_keys", "Puppet"),
    ("/var/lib/puppet/ssl/private_keys", "Puppet"),
    ("/etc/puppet/ssl/private_keys", "Puppet"),
    ("/etc/chef/client.pem", "Chef"),
    ("/etc/cinc/client.pem", "Cinc"),
    ("/var/lib/landscape/client/broker.bpickle", "Landscape"),
    ("/var/lib/tailscale/tailscaled.state", "Tailscale"),
    ("/var/lib/zerotier-one/identity.secret", "ZeroTier"),
    ("/var/lib/kubelet/pki", "kubelet"),
    ("/etc/kubernetes/pki", "Kubernetes"),
    ("/etc/rancher/node/password", "k3s"),
    ("/etc/munge/munge.key", "MUNGE"),
    ("/var/lib/tor/keys", "Tor"),
    ("/var/lib/ipa-client/sysrestore", "FreeIPA"),
)


def renew_identities(editor: Editor) -> None:
    """Storage initiators, registrations at services, agents."""
    _iscsi(editor)
    for path in _RENEWED:
        editor.remove(path)
    editor.remove_matching("/etc/lvm/devices", r"system\.devices.*")
    editor.remove_matching("/etc/lvm/devices/backup", r".*")
    of_whom = []
    for directory, pattern, owner in _REGISTRATIONS:
        before = len(editor.removed)
        editor.remove_matching(directory, pattern)
        of_whom += [owner] * (len(editor.removed) > before)
    if of_whom:
        editor.warnings.append(
            f"the installed machine's registration with {listed(of_whom)} went: register every "
            "instance at its boot, or unregister in the installed system"
        )
    shared = [f"{path} ({owner})" for path, owner in _SHARED if _holds(editor, path)]
    if shared:
        editor.warnings.append(
            f"{shown(listed(shared))}: every instance has this one identity; remove it in the "
            "installed system, and give each instance its own"
        )


def _holds(editor: Editor, path: str) -> bool:
    if editor.is_directory(path):
        return bool(editor.names(path))
    return editor.is_file(path)


def _iscsi(editor: Editor) -> None:
    """One initiator's name for every instance lets them write to each other's volumes."""
    named = re.search(r"^[ \t]*InitiatorName[ \t]*=[ \t]*\S", editor.small_text(_ISCSI), re.M)
    if named and any("GenerateName=yes" in editor.small_text(p) for p in _ISCSI_SCRIPTS):
        editor.write(_ISCSI, "GenerateName=yes\n")
    elif named:
        editor.remove(_ISCSI)
        if not any(_ISCSI_UNIT in editor.names(directory) for directory in _UNITS):
            editor.warnings.append(
                f"{_ISCSI} went, the name of one iSCSI initiator, and nothing is known in the "
                "guest that makes a new one: have `iscsi-iname` make it at each instance's boot"
            )
    targets = [path for path in _ISCSI_TARGETS if editor.names(path)]
    if targets:
        editor.warnings.append(
            f"{listed(targets)} names iSCSI targets: every instance logs in to them; remove "
            "them in the installed system unless that is meant"
        )


def forget_cloud_init(editor: Editor) -> None:
    """What cloud-init remembers, and what installers told it: it begins anew, with any cloud."""
    editor.remove_matching("/var/lib/cloud", r"instances?|data|sem")
    editor.remove_matching("/var/log", r"cloud-init(?:-output)?\.log.*")
    for name in ("cloud-init.disabled", "ds-identify.cfg"):
        # Ubuntu's installer leaves these with its own data source, which goes below.
        if editor.is_file("/etc/cloud/cloud.cfg.d/99-installer.cfg"):
            editor.remove(f"/etc/cloud/{name}")
    directory = "/etc/cloud/cloud.cfg.d"
    others = []
    for name in editor.names(directory):
        path = f"{directory}/{name}"
        text = editor.small_text(path)
        if re.fullmatch(
            r"99-installer\.cfg|(?:90-installer|50-curtin|subiquity-disable-cloudinit)-network(?:ing)?\.cfg",
            name,
        ) or _PINNED_NETWORK.search(text):
            editor.remove(path)
        elif _INSTANCE.search(text) or _has_no_cloud(text):
            others.append(path)
    seeds = [
        f"/var/lib/cloud/seed/{name}"
        for name in editor.names("/var/lib/cloud/seed")
        if editor.names(f"/var/lib/cloud/seed/{name}")
    ]
    if others or seeds:
        editor.warnings.append(
            f"{shown(listed(others + seeds))} tells cloud-init what one instance is: every "
            "instance takes it for its own; remove it in the installed system unless that is meant"
        )


# A network configuration that is more than "config: disabled".
_PINNED_NETWORK = re.compile(
    r"^network:(?![^\n]*config:[ ]*disabled)(?!\s*\n\s+config:\s*disabled).*(?:\n[ \t].*)*"
    r"(?:addresses|address|macaddress|mac_address|gateway4?)[ \t]*:",
    re.M,
)
# A name that is configured counts before the one that a cloud gives.
_INSTANCE = re.compile(r"^[^#\n]*\binstance-id\s*:|^(?:hostname|fqdn)[ \t]*:[ \t]*\S", re.M)
_SOURCES = re.compile(r"^datasource_list[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.M)


def _has_no_cloud(text: str) -> bool:
    """Whether cloud-init is told of no source but those that no cloud is."""
    found = _SOURCES.search(text)
    words = set(re.findall(r"\w+", found[1])) if found else set()
    return bool(words) and words <= {"None", "NoCloud"}
